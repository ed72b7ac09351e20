// SPDX-License-Identifier: Apache-2.0

// Package memnet is a network in memory, for simulations under testing/synctest: it carries packets and
// streams between named nodes as gossip/mesh does, with latency, loss, duplicates and cuts. No goroutine
// of it lives longer than what it is waiting for.
package memnet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// Config of a Network. Zero values are a network that is perfect and takes no time.
type Config struct {
	Seed      uint64
	Latency   time.Duration // one way, at least
	Jitter    time.Duration // at most that much more
	Loss      float64       // of packets, each way: 0 to 1; streams are delayed instead
	Duplicate float64       // of packets
}

// Network is all nodes. It is safe for concurrent use.
type Network struct {
	mu    sync.Mutex
	cfg   Config
	rng   *rand.Rand
	nodes map[string]*Node
	cuts  map[[2]string]bool // from, to
}

// New returns a network without nodes.
func New(cfg Config) *Network {
	return &Network{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 1)), nodes: map[string]*Node{}, cuts: map[[2]string]bool{}}
}

const backlog = 8192

// Node adds a node, in place of one of the same name that has been closed.
func (n *Network) Node(name, addr string) (*Node, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes[name] != nil {
		return nil, fmt.Errorf("node %s is there already", name)
	}
	node := &Node{net: n, name: name, addr: addr, packets: make(chan mesh.Packet, backlog), streams: make(chan mesh.Stream, backlog), conns: map[*conn]bool{}}
	n.nodes[name] = node
	return node, nil
}

// SetLoss changes the loss from now on.
func (n *Network) SetLoss(loss float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cfg.Loss = loss
}

// Cut stops, or with cut false mends, everything that goes from one node to another; one way.
func (n *Network) Cut(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[[2]string{from, to}] = cut
}

// Isolate cuts a node off from all others that there are, or mends it.
func (n *Network) Isolate(name string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for other := range n.nodes {
		n.cuts[[2]string{name, other}], n.cuts[[2]string{other, name}] = cut, cut
	}
}

// passesLocked reports whether something gets from one node to another now.
func (n *Network) passesLocked(from, to string) bool {
	return n.nodes[from] != nil && n.nodes[to] != nil && !n.cuts[[2]string{from, to}]
}

func (n *Network) delayLocked() time.Duration {
	if n.cfg.Jitter == 0 {
		return n.cfg.Latency
	}
	return n.cfg.Latency + time.Duration(n.rng.Int64N(int64(n.cfg.Jitter)))
}

func (n *Network) chanceLocked(p float64) bool { return p > 0 && n.rng.Float64() < p }

// Node is a node's carrier. It is safe for concurrent use.
type Node struct {
	net     *Network
	name    string
	addr    string
	packets chan mesh.Packet
	streams chan mesh.Stream

	conns map[*conn]bool // guarded by net.mu
	stats Stats          // guarded by net.mu
}

// Stats is what a node has sent.
type Stats struct{ Packets, PacketBytes, Streams, StreamBytes int }

// Stats returns what the node has sent so far.
func (n *Node) Stats() Stats {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	return n.stats
}

var errDown = errors.New("this node is down")

// Send implements gossip.Sender.
func (n *Node) Send(to mesh.Peer, kind byte, data []byte) error {
	w := n.net
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.nodes[n.name] != n {
		return errDown
	}
	n.stats.Packets++
	n.stats.PacketBytes += len(data)
	copies := 1
	if w.chanceLocked(w.cfg.Duplicate) {
		copies = 2
	}
	for range copies {
		if w.chanceLocked(w.cfg.Loss) {
			continue
		}
		p := mesh.Packet{From: mesh.Peer{Name: n.name, Addr: n.addr}, Kind: kind, Data: slices.Clone(data)}
		time.AfterFunc(w.delayLocked(), func() { w.deliver(to.Name, p) })
	}
	return nil
}

// deliver brings a packet to its node, if it gets there; one that is overrun loses it.
func (n *Network) deliver(to string, p mesh.Packet) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.passesLocked(p.From.Name, to) {
		return
	}
	p.At = time.Now()
	select {
	case n.nodes[to].packets <- p:
	default:
	}
}

// Dial implements gossip.Sender.
func (n *Node) Dial(ctx context.Context, to mesh.Peer, kind byte) (net.Conn, error) {
	w := n.net
	w.mu.Lock()
	name := to.Name
	if name == "" {
		for _, other := range w.nodes {
			if other.addr == to.Addr {
				name = other.name
			}
		}
	}
	trip := 2 * w.delayLocked()
	passes := w.passesLocked(n.name, name) && w.passesLocked(name, n.name) && w.nodes[n.name] == n
	w.mu.Unlock()
	if !passes {
		<-ctx.Done() // as the real thing: nobody says no
		return nil, fmt.Errorf("dial %s: %w", to.Addr, ctx.Err())
	}
	select {
	case <-time.After(trip):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return n.connect(name, kind)
}

func (n *Node) connect(to string, kind byte) (net.Conn, error) {
	w := n.net
	w.mu.Lock()
	defer w.mu.Unlock()
	peer := w.nodes[to]
	if peer == nil || w.nodes[n.name] != n {
		return nil, errDown
	}
	near, far := newPair(n, peer)
	select {
	case peer.streams <- mesh.Stream{From: n.name, Kind: kind, Conn: far}:
	default:
		return nil, fmt.Errorf("%s is overrun", to)
	}
	n.conns[near], peer.conns[far] = true, true
	n.stats.Streams++
	return near, nil
}

// Up implements gossip.Sender: every node that is there proves its name.
func (n *Node) Up(name string) bool {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	return n.net.passesLocked(n.name, name) && n.net.passesLocked(name, n.name)
}

// Packets and Streams implement gossip.Receiver.
func (n *Node) Packets() <-chan mesh.Packet { return n.packets }
func (n *Node) Streams() <-chan mesh.Stream { return n.streams }

// Close takes the node off the network: what is on its way to it is lost.
func (n *Node) Close() error {
	n.net.mu.Lock()
	conns := n.conns
	n.conns = map[*conn]bool{}
	if n.net.nodes[n.name] == n {
		delete(n.net.nodes, n.name)
	}
	n.net.mu.Unlock()
	for c := range conns {
		_ = c.Close() // it has no errors
	}
	return nil
}
