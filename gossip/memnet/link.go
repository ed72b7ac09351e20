// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Errors of Send, Dial and of streams.
var (
	ErrClosed  = errors.New("node is closed")
	ErrSelf    = errors.New("that is this node")
	ErrSize    = errors.New("packet is empty or larger than 64 KiB")
	ErrName    = errors.New("no name, or another than at that address")
	ErrTimeout = errors.New("nobody answers")
	ErrLost    = errors.New("link lost")
)

// link is a connection between two nodes that have proved their names to each other.
//
//	attempt ──both ways pass──> up ──a way does not work for 10 s, or a node closes──> broken
type link struct {
	a, b    *Node
	broken  bool
	blocked *time.Timer // breaks it; nil: both ways work
	conns   map[*conn]bool
}

// other is the node at the other end.
func (l *link) other(n *Node) *Node {
	if n == l.a {
		return l.b
	}
	return l.a
}

func (n *Network) linkLocked(from, to string) *link { return n.links[direction{from, to}] }

func (n *Network) makeLocked(a, b *Node) {
	l := &link{a: a, b: b, conns: map[*conn]bool{}}
	d := direction{a.name, b.name}
	n.links[d], n.links[d.reverse()] = l, l
	n.checkLinkLocked(d, l) // not all: of a thousand nodes there are half a million
}

// checkLocked looks after all links when what passes has changed.
func (n *Network) checkLocked() {
	for d, l := range n.links {
		n.checkLinkLocked(d, l)
	}
}

func (n *Network) checkLinkLocked(d direction, l *link) {
	passes := n.passesBothLocked(d)
	switch {
	case passes && l.blocked != nil:
		l.blocked.Stop()
		l.blocked = nil
	case !passes && l.blocked == nil:
		var timer *time.Timer
		timer = time.AfterFunc(idleLimit, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			if l.blocked == timer {
				n.breakLocked(l)
			}
		})
		l.blocked = timer
	}
}

// breakLocked ends a link and its streams.
func (n *Network) breakLocked(l *link) {
	if l.broken {
		return
	}
	l.broken = true
	if l.blocked != nil {
		l.blocked.Stop()
	}
	d := direction{l.a.name, l.b.name}
	delete(n.links, d)
	delete(n.links, d.reverse())
	for c := range l.conns {
		c.changeLocked()
	}
}

// try names an attempt: to reach a name, or whoever answers at an address.
type try struct{ from, name, addr string }

// attempt is a link that is being made, and what waits for it.
type attempt struct {
	try
	node  *Node // that makes it
	addr  string
	until time.Time
	retry time.Duration
	done  chan struct{} // closed when it is over
	peer  *Node         // whom it has led to; nil: nobody
	err   error
	queue []func(to *Node)
}

// attemptLocked returns the attempt under way, or begins one.
func (n *Network) attemptLocked(from *Node, name, addr string) *attempt {
	key := try{from: from.name, name: name}
	if name == "" {
		key.addr = addr
	}
	if a := n.tries[key]; a != nil {
		return a
	}
	a := &attempt{try: key, node: from, addr: addr, until: time.Now().Add(patience), retry: hello, done: make(chan struct{})}
	n.tries[key] = a
	n.tryLocked(a)
	return a
}

// tryLocked sends a hello, so to speak, and comes back when it was answered or must be repeated.
func (n *Network) tryLocked(a *attempt) {
	peer := n.atLocked(a.addr)
	wait, answered := min(a.retry, time.Until(a.until)), false
	if peer != nil {
		d := direction{a.from, peer.name}
		if n.passesBothLocked(d) && !n.lostLocked(d) && !n.lostLocked(d.reverse()) {
			wait, answered = n.delayLocked()+n.delayLocked(), true
		}
	}
	a.retry *= 2
	time.AfterFunc(wait, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		switch l := n.linkLocked(a.from, a.name); {
		case n.tries[a.try] != a: // the node was closed
		case l != nil: // the peer was quicker
			n.endLocked(a, l.other(a.node), nil)
		case answered && !peer.closed && n.passesBothLocked(direction{a.from, peer.name}):
			n.answeredLocked(a, peer)
		case !time.Now().Before(a.until):
			n.endLocked(a, nil, fmt.Errorf("%s: %w", a.addr, ErrTimeout))
		default:
			n.tryLocked(a)
		}
	})
}

// answeredLocked checks who it is that has answered.
func (n *Network) answeredLocked(a *attempt, peer *Node) {
	switch {
	case peer == a.node:
		n.endLocked(a, nil, ErrSelf)
	case a.name != "" && a.name != peer.name:
		n.endLocked(a, nil, fmt.Errorf("%s at %s: %w", a.name, a.addr, ErrName))
	default:
		if n.linkLocked(a.from, peer.name) == nil {
			n.makeLocked(a.node, peer)
		}
		n.endLocked(a, peer, nil)
	}
}

func (n *Network) endLocked(a *attempt, peer *Node, err error) {
	delete(n.tries, a.try)
	a.peer, a.err = peer, err
	close(a.done)
	if err != nil {
		return // what has waited is lost
	}
	for _, send := range slices.Clip(a.queue) {
		send(peer)
	}
}
