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

// rig is a cluster with a service that echoes behind each node.
type rig struct {
	*harness.Cluster
	nodes []*node
}

// node is an agent on a host.
type node struct{ *harness.Node }

// newRig starts a cluster, and waits until every node sees all others.
func newRig(t *testing.T, c harness.ClusterConfig) *rig {
	t.Helper()
	c.Before = func(h *lab.Host, addr string) { go echo(listen(t, h, addr)) }
	r := &rig{Cluster: harness.StartCluster(t, c)}
	for _, n := range r.Nodes {
		r.nodes = append(r.nodes, &node{n})
	}
	return r
}

// whole waits until every node sees every other alive, and has compared sessions with it.
func (r *rig) whole(t *testing.T, nodes ...*node) {
	t.Helper()
	all := r.Nodes
	if nodes != nil {
		all = nil
	}
	for _, n := range nodes {
		all = append(all, n.Node)
	}
	r.WaitWhole(t, all...)
}

func listen(t *testing.T, h *lab.Host, addr string) *net.TCPListener {
	t.Helper()
	l, err := h.Listen(fmt.Sprintf("%s:%d", addr, harness.UpstreamPort))
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
	tcp, err := n.Host.Dial("", fmt.Sprintf("%s:%d", n.Addr, harness.ServicePort), harness.Patience)
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
