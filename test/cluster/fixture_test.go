// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package cluster runs real agents as a cluster: each in a network namespace of its own, on one switch, where
// packets can be lost and hosts cut off. All share the host's CLOCK_BOOTTIME, so that what
// happens at one can be compared with what happens at another.
package cluster

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/lab"
	"github.com/curfew-proxy/curfew/test/harness"
)

// Ports of every node.
const (
	gossipPort   = 7946
	gatewayPort  = 8443
	servicePort  = 9000
	upstreamPort = 9001 // on the node's own host: it is there in every partition
)

// rig is a cluster with a service that echoes behind each node.
type rig struct {
	net   *lab.Network
	nodes []*node
}

// node is an agent on a host.
type node struct {
	*harness.Agent
	host *lab.Host
	addr string
}

// options of a rig.
type options struct {
	nodes   int
	extra   string                          // YAML of every agent, at the top level
	more    string                          // YAML of the service, in braces
	cluster string                          // the same of the cluster
	under   func(node int) (under []string) // how to start an agent; nil: plainly
}

// newRig starts a cluster, and waits until every node sees all others.
func newRig(t *testing.T, o options) *rig {
	t.Helper()
	network, err := lab.NewNetwork(o.nodes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(network.Close)
	r := &rig{net: network}
	for i := range o.nodes {
		var args []string
		if i > 0 {
			args = []string{"--join", r.token(t)}
		}
		r.nodes = append(r.nodes, r.startNode(t, i, o, args))
	}
	r.whole(t)
	return r
}

func (r *rig) startNode(t *testing.T, i int, o options, args []string) *node {
	t.Helper()
	addr := r.net.Addr(i)
	go echo(listen(t, r.net.Hosts[i], addr))
	c := harness.Config{
		Gateway: fmt.Sprintf("%s:%d", addr, gatewayPort), Netns: r.net.Hosts[i].File, Args: args,
		Extra: fmt.Sprintf("cluster: {listen: \"%s:%d\"%s}\n%s", addr, gossipPort, o.cluster, o.extra),
		Services: fmt.Sprintf("  - {name: echo, listen: [\"%s:%d\"], upstream: \"%s:%d\", allow: 'true'%s}\n",
			addr, servicePort, addr, upstreamPort, o.more),
	}
	if o.under != nil {
		c.Under = o.under(i)
	}
	return &node{Agent: harness.Start(t, c), host: r.net.Hosts[i], addr: addr}
}

// token makes a token at the first node.
func (r *rig) token(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(r.nodes[0].MustCurfew(t, "cluster", "token").Stdout)
}

// whole waits until every node sees every other alive, and has compared sessions with it.
func (r *rig) whole(t *testing.T, nodes ...*node) {
	t.Helper()
	if nodes == nil {
		nodes = r.nodes
	}
	for _, n := range nodes {
		harness.Eventually(t, n.Name+" to see all others", func() error {
			info, err := n.Control.Nodes(t.Context())
			if err != nil {
				return err
			}
			alive := 0
			for _, other := range info.Nodes {
				if other.State == api.NodeAlive {
					alive++
				}
			}
			if alive != len(nodes) || !info.Ready {
				return fmt.Errorf("%d of %d alive, ready %v", alive, len(nodes), info.Ready)
			}
			return nil
		})
	}
}

func listen(t *testing.T, h *lab.Host, addr string) *net.TCPListener {
	t.Helper()
	l, err := h.Listen(fmt.Sprintf("%s:%d", addr, upstreamPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// echo sends back what it gets, until the listener is closed.
func echo(l *net.TCPListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c) // ends with the connection
		}()
	}
}

// stream is a client's connection through a node, on which it asks and is answered until the end.
type stream struct {
	node  *node
	conn  *tls.Conn
	ended chan struct{}   // closed when it has
	at    session.Instant // of the end; valid once ended is closed
}

// open opens a connection on a node, and keeps it busy every interval; zero: silent after the first answer.
func (n *node) open(t *testing.T, creds harness.Credentials, interval time.Duration) (*stream, error) {
	t.Helper()
	tcp, err := n.host.Dial("", fmt.Sprintf("%s:%d", n.addr, servicePort), harness.Patience)
	if err != nil {
		return nil, err
	}
	s := &stream{node: n, conn: tls.Client(tcp, creds.TLS(t, "")), ended: make(chan struct{})}
	if err := s.ask(); err != nil {
		_ = tcp.Close() // the error at hand says more
		return nil, err
	}
	var done sync.WaitGroup
	done.Go(func() { s.run(interval) })
	t.Cleanup(func() { _ = tcp.Close(); done.Wait() })
	return s, nil
}

func (n *node) mustOpen(t *testing.T, creds harness.Credentials, interval time.Duration) *stream {
	t.Helper()
	s, err := n.open(t, creds, interval)
	if err != nil {
		t.Fatalf("%s refuses: %v\n%s", n.Name, err, n.Log())
	}
	return s
}

func (s *stream) ask() error {
	if err := s.conn.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		return err
	}
	if _, err := s.conn.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(s.conn, make([]byte, 4))
	return err
}

func (s *stream) run(interval time.Duration) {
	defer close(s.ended)
	defer func() { s.at = hostclock.Clock{}.Boot() }()
	for interval > 0 {
		if s.ask() != nil {
			return
		}
		time.Sleep(interval)
	}
	_ = s.conn.SetDeadline(time.Time{})
	_, _ = s.conn.Read(make([]byte, 1)) // only an end comes
}

// mustEnd waits for the end of the stream, and returns when it was.
func (s *stream) mustEnd(t *testing.T) session.Instant {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(harness.Patience):
		t.Fatalf("a stream through %s goes on", s.node.Name)
	}
	return s.at
}

func (s *stream) live() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// everywhere opens a stream on each node.
func (r *rig) everywhere(t *testing.T, creds harness.Credentials, interval time.Duration) []*stream {
	t.Helper()
	var all []*stream
	for _, n := range r.nodes {
		all = append(all, n.mustOpen(t, creds, interval))
	}
	return all
}

// refused checks that no node lets the credentials in.
func (r *rig) refused(t *testing.T, creds harness.Credentials) {
	t.Helper()
	for _, n := range r.nodes {
		if s, err := n.open(t, creds, 0); err == nil {
			_ = s.conn.Close()
			t.Errorf("%s lets in a session that has ended", n.Name)
		}
	}
}

// events returns the events of a type at a node.
func (n *node) events(t *testing.T, kind string) []api.Event {
	t.Helper()
	var list []api.Event
	dec := json.NewDecoder(strings.NewReader(n.MustCurfew(t, "events", "-o", "json").Stdout))
	for {
		var e api.Event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		if e.Type == kind {
			list = append(list, e)
		}
	}
}

// place is a node's place in the rig, for figures that mean something: names are random.
func (r *rig) place(name string) string {
	for i, n := range r.nodes {
		if n.Name == name {
			return fmt.Sprint("node ", i+1)
		}
	}
	return name
}
