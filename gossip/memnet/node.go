// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// Node is a node's carrier. It is safe for concurrent use.
type Node struct {
	net     *Network
	name    string
	addr    string
	packets chan mesh.Packet
	streams chan mesh.Stream

	closed bool
	stats  Stats
}

// Stats is what a node has sent, and what came from others, without what was lost and with what came twice.
type Stats struct {
	Sent, Received Traffic
	Overrun        int // packets and streams that came while too many waited to be taken
}

// Traffic counts what was carried, and its bytes without any headers.
type Traffic struct{ Packets, PacketBytes, Streams, StreamBytes int }

// Stats returns the counts so far.
func (n *Node) Stats() Stats {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	return n.stats
}

// Send implements gossip.Sender. A packet waits up to two seconds for a link.
func (n *Node) Send(to mesh.Peer, kind byte, data []byte) error {
	w := n.net
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case n.closed:
		return ErrClosed
	case len(data) == 0 || len(data) > maxPacket:
		return ErrSize
	case to.Name == "":
		return ErrName
	case to.Name == n.name:
		return ErrSelf
	}
	if l := w.linkLocked(n.name, to.Name); l != nil {
		w.packetLocked(n, l.other(n), kind, data)
		return nil
	}
	a := w.attemptLocked(n, to.Name, to.Addr)
	if len(a.queue) < queueLimit {
		data = slices.Clone(data)
		a.queue = append(a.queue, func(to *Node) { w.packetLocked(n, to, kind, data) })
	}
	return nil
}

// Dial implements gossip.Sender.
func (n *Node) Dial(ctx context.Context, to mesh.Peer, kind byte) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := n.net
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case n.closed:
		return nil, ErrClosed
	case to.Name == n.name:
		return nil, ErrSelf
	}
	name := to.Name
	if at := w.atLocked(to.Addr); name == "" && at != nil && w.linkLocked(n.name, at.name) != nil {
		name = at.name
	}
	if w.linkLocked(n.name, name) == nil {
		a := w.attemptLocked(n, to.Name, to.Addr)
		w.mu.Unlock()
		err := a.wait(ctx)
		w.mu.Lock()
		if err != nil {
			return nil, fmt.Errorf("dial %s: %w", to.Addr, err)
		}
		name = a.peer.name
	}
	l := w.linkLocked(n.name, name)
	if l == nil || n.closed {
		return nil, fmt.Errorf("dial %s: %w", to.Addr, ErrLost)
	}
	return n.openLocked(l, kind), nil
}

func (a *attempt) wait(ctx context.Context) error {
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// openLocked opens a stream; the peer has it as soon as word of it arrives.
func (n *Node) openLocked(l *link, kind byte) net.Conn {
	peer := l.other(n)
	near, far := newPair(l, n, peer)
	n.stats.Sent.Streams++
	near.scheduleLocked(0, func() {
		select {
		case peer.streams <- mesh.Stream{From: n.name, Kind: kind, Conn: far}:
			peer.stats.Received.Streams++
		default:
			peer.stats.Overrun++
			far.closeLocked()
		}
	})
	return near
}

// Up implements gossip.Sender.
func (n *Node) Up(name string) bool {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	return n.net.linkLocked(n.name, name) != nil
}

// Packets and Streams implement gossip.Receiver. Close closes them.
func (n *Node) Packets() <-chan mesh.Packet { return n.packets }
func (n *Node) Streams() <-chan mesh.Stream { return n.streams }

// Close takes the node off the network: its links break, at both ends where word of it gets there, and what
// is on its way is lost. It is idempotent.
func (n *Node) Close() error {
	w := n.net
	w.mu.Lock()
	defer w.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	for d, l := range w.links {
		if d.from == n.name {
			n.hangUpLocked(l)
		}
	}
	delete(w.nodes, n.name)
	w.checkLocked()
	for _, a := range w.tries {
		if a.node == n {
			w.endLocked(a, nil, ErrClosed)
		}
	}
	close(n.packets)
	close(n.streams)
	return nil
}

// hangUpLocked ends a link at this end, and at the other if word of it gets there.
func (n *Node) hangUpLocked(l *link) {
	if n.net.passesLocked(direction{n.name, l.other(n).name}) {
		n.net.breakLocked(l)
		return
	}
	for c := range l.conns {
		if c.local == n {
			c.closeLocked()
		}
	}
}
