// SPDX-License-Identifier: Apache-2.0

// Package memnet is a network in memory, for simulations under testing/synctest: it carries packets and
// streams between named nodes as gossip/mesh does, over links that have to be made first and that break,
// with latency, loss, duplicates, reordering and cuts.
//
// It owns its nodes and what is on its way. It has no goroutines of its own, only timers; a Network must be
// made in the bubble that uses it. What is left to chance comes from a seeded source, in the order in which the
// nodes ask, which the scheduler decides.
package memnet

import (
	"fmt"
	"math/rand/v2"
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
	Loss      float64       // of packets, each way: 0 to 1; streams and links are delayed instead
	Duplicate float64       // of packets
	Reorder   float64       // of packets: they take up to five times as long
}

const (
	backlog    = 8192                   // packets, and streams, that wait for a node to take them
	resend     = 50 * time.Millisecond  // until lost or stopped bytes of a stream are tried again
	hello      = 200 * time.Millisecond // until the first word of a new link is tried again; then twice that
	patience   = 2 * time.Second        // for a link to be made
	idleLimit  = 10 * time.Second       // a link breaks when one way does not work for so long
	queueLimit = 512                    // packets that wait for a link
	window     = 1 << 20                // bytes of a stream that are written and not read
	reordered  = 5 * time.Millisecond   // that a packet out of order takes at most, if there is no latency
	maxPacket  = 64 << 10
)

// direction is the way from one node to another, by name.
type direction struct{ from, to string }

// Network is all nodes. It is safe for concurrent use.
type Network struct {
	mu    sync.Mutex // guards everything, also what nodes, links and streams have
	cfg   Config
	rng   *rand.Rand
	nodes map[string]*Node
	links map[direction]*link // each under both of its directions
	tries map[try]*attempt    // to make a link

	cuts map[direction]bool
	loss map[direction]float64 // in place of cfg.Loss
	down map[string]bool
	side map[string]bool // nodes that are parted from the others
}

// New returns a network without nodes.
func New(cfg Config) *Network {
	return &Network{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 1)),
		nodes: map[string]*Node{}, links: map[direction]*link{}, tries: map[try]*attempt{},
		cuts: map[direction]bool{}, loss: map[direction]float64{}, down: map[string]bool{}, side: map[string]bool{}}
}

// Node adds a node that is reached at addr, in any form. One of the same name or address must have been
// closed before.
func (n *Network) Node(name, addr string) (*Node, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes[name] != nil || n.atLocked(addr) != nil {
		return nil, fmt.Errorf("node %s at %s: name or address is taken", name, addr)
	}
	node := &Node{net: n, name: name, addr: addr, packets: make(chan mesh.Packet, backlog), streams: make(chan mesh.Stream, backlog)}
	n.nodes[name] = node
	for d, l := range n.links {
		if d.from == name {
			n.breakLocked(l) // of its former self, which it knows nothing of
		}
	}
	return node, nil
}

// atLocked returns the node at an address, or nil.
func (n *Network) atLocked(addr string) *Node {
	for _, node := range n.nodes {
		if node.addr == addr {
			return node
		}
	}
	return nil
}

// SetLoss changes the loss everywhere, from now on.
func (n *Network) SetLoss(loss float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cfg.Loss = loss
	clear(n.loss)
}

// SetLossBetween changes the loss from one node to another; one way.
func (n *Network) SetLossBetween(from, to string, loss float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss[direction{from, to}] = loss
}

// Cut stops, or with cut false mends, everything that goes from one node to another; one way.
func (n *Network) Cut(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[direction{from, to}] = cut
	n.checkLocked()
}

// Part parts the nodes named from all others, also from those to come, in place of an earlier Part. With no
// names it mends.
func (n *Network) Part(side ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.side)
	for _, name := range side {
		n.side[name] = true
	}
	n.checkLocked()
}

// Down takes a node's cable out, or puts it in again. A node that is closed meanwhile has crashed: its peers
// are not told.
func (n *Network) Down(name string, down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[name] = down
	n.checkLocked()
}

// passesLocked reports whether something gets from one node to another now.
func (n *Network) passesLocked(d direction) bool {
	return n.nodes[d.from] != nil && n.nodes[d.to] != nil && !n.cuts[d] && !n.down[d.from] && !n.down[d.to] && n.side[d.from] == n.side[d.to]
}

func (n *Network) passesBothLocked(d direction) bool {
	return n.passesLocked(d) && n.passesLocked(d.reverse())
}

func (d direction) reverse() direction { return direction{d.to, d.from} }

// lostLocked draws whether something that passes is lost nevertheless.
func (n *Network) lostLocked(d direction) bool {
	loss, ok := n.loss[d]
	if !ok {
		loss = n.cfg.Loss
	}
	return n.chanceLocked(loss)
}

func (n *Network) chanceLocked(p float64) bool { return p > 0 && n.rng.Float64() < p }

// delayLocked draws how long something takes one way.
func (n *Network) delayLocked() time.Duration {
	return n.cfg.Latency + n.upToLocked(n.cfg.Jitter)
}

func (n *Network) upToLocked(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(n.rng.Int64N(int64(d) + 1))
}

// packetLocked sends a packet over a link that is up.
func (n *Network) packetLocked(from, to *Node, kind byte, data []byte) {
	d := direction{from.name, to.name}
	from.stats.Sent.Packets++
	from.stats.Sent.PacketBytes += len(data)
	copies := 1
	if n.chanceLocked(n.cfg.Duplicate) {
		copies = 2
	}
	for range copies {
		if n.lostLocked(d) {
			continue
		}
		delay := n.delayLocked()
		if n.chanceLocked(n.cfg.Reorder) {
			delay += n.upToLocked(max(4*delay, reordered))
		}
		p := mesh.Packet{From: mesh.Peer{Name: from.name, Addr: from.addr}, Kind: kind, Data: slices.Clone(data)}
		time.AfterFunc(delay, func() { n.deliver(to, p) })
	}
}

// deliver brings a packet to its node, if it gets there; a node that is overrun loses it.
func (n *Network) deliver(to *Node, p mesh.Packet) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if to.closed || !n.passesLocked(direction{p.From.Name, to.name}) {
		return
	}
	p.At = time.Now()
	select {
	case to.packets <- p:
		to.stats.Received.Packets++
		to.stats.Received.PacketBytes += len(p.Data)
	default:
		to.stats.Overrun++
	}
}
