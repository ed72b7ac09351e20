// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/gossip/memnet"
	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// world is a cluster in a bubble.
type world struct {
	t     *testing.T
	net   *memnet.Network
	nodes map[string]*node
}

// node is a member of it, and its own Handler.
type node struct {
	*Cluster
	world   *world
	carrier *memnet.Node
	stop    func()

	gate chan struct{} // that Gossiped waits at; nil: it does not wait

	mu       sync.Mutex
	received []string
	seen     map[string]bool // broadcasts
	peers    []mesh.Peer
	counts   map[string]int
}

func newWorld(t *testing.T, cfg memnet.Config) *world {
	return &world{t: t, net: memnet.New(cfg), nodes: map[string]*node{}}
}

func addrOf(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 7946)
}

func nameOf(i int) string { return fmt.Sprint("node", i) }

// start starts node i, which has node 1 for its seed.
func (w *world) start(i int, change ...func(*Config)) *node {
	w.t.Helper()
	return w.startOn(i, nil, change...)
}

// startOn starts node i on a carrier; nil: on one at the address that it advertises.
func (w *world) startOn(i int, carrier *memnet.Node, change ...func(*Config)) *node {
	w.t.Helper()
	n := &node{world: w, carrier: carrier, seen: map[string]bool{}, counts: map[string]int{}}
	cfg := Config{Name: nameOf(i), Advertise: addrOf(i), Handler: n, Log: slog.New(slog.DiscardHandler),
		Remember: func(p []mesh.Peer) { n.mu.Lock(); n.peers = p; n.mu.Unlock() },
		Changed:  func() { n.count("changed") }, Count: n.count}
	if i != 1 {
		cfg.Seeds = []string{addrOf(1).String()}
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if n.carrier == nil {
		if n.carrier, err = w.net.Node(nameOf(i), cfg.Advertise.String()); err != nil {
			w.t.Fatal(err)
		}
	}
	cfg.Carrier = n.carrier
	if n.Cluster, err = New(cfg); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			if err := errors.Join(<-done, n.Close(), n.carrier.Close()); err != nil {
				w.t.Error(err)
			}
		})
	}
	w.nodes[nameOf(i)] = n
	return n
}

func (w *world) startAll(n int) {
	for i := range n {
		w.start(i + 1)
	}
}

// stop stops all nodes. Nothing of them is left when memberlist's probes are over: the bubble sees to it.
func (w *world) stop() {
	for _, n := range w.nodes {
		n.stop()
	}
	time.Sleep(10 * time.Second)
}

// crash ends a node without a goodbye, and returns what it remembers.
func (w *world) crash(name string) []mesh.Peer {
	n := w.nodes[name]
	w.net.Down(name, true) // nothing of its end is to be seen
	n.stop()
	w.net.Down(name, false)
	delete(w.nodes, name)
	return n.remembered()
}

func (n *node) Receive(from string, data []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.received = append(n.received, from+":"+string(data))
}

func (n *node) Serve(from string, request []byte) ([]byte, error) {
	switch string(request) {
	case "fail":
		return nil, errors.New("no")
	case "hang":
		time.Sleep(10 * time.Second)
	}
	return []byte(from + " asked " + n.cfg.Name + " " + string(request)), nil
}

func (n *node) Gossiped(data []byte) bool {
	if n.gate != nil {
		<-n.gate
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	news := !n.seen[string(data)]
	n.seen[string(data)] = true
	return news
}

func (n *node) got() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.received)
}

func (n *node) count(event string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts[event]++
}

func (n *node) counted(event string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.counts[event]
}

func (n *node) remembered() []mesh.Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers
}

func (n *node) has(broadcast string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen[broadcast]
}

func (n *node) alive() (names []string) {
	for _, m := range n.Members() {
		if m.State == Alive {
			names = append(names, m.Name)
		}
	}
	return names
}

// member returns what a node shows of a member; nothing if it shows none.
func (n *node) member(name string) Member {
	for _, m := range n.Members() {
		if m.Name == name {
			return m
		}
	}
	return Member{}
}

func (n *node) state(name string) State { return n.member(name).State }

// eventually waits, in the bubble's time, and returns how long it took.
func (w *world) eventually(what string, within time.Duration, ok func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > within {
			for name, n := range w.nodes {
				w.t.Logf("%s sees %+v", name, n.Members())
			}
			w.t.Fatalf("%s: not within %v", what, within)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

func (w *world) whole(n int) func() bool {
	return func() bool {
		for _, node := range w.nodes {
			if len(node.alive()) != n {
				return false
			}
		}
		return true
	}
}

var lan = memnet.Config{Seed: 1, Latency: 500 * time.Microsecond, Jitter: 500 * time.Microsecond}

func lossy(loss float64) memnet.Config {
	c := lan
	c.Loss, c.Duplicate = loss, 0.05
	return c
}
