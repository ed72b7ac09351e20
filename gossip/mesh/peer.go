// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	queuePackets   = 512
	queueBytes     = 1 << 20
	packetPatience = 2 * time.Second // a packet that waited longer than that for a link is worthless

	backoffFirst = 50 * time.Millisecond
	backoffLast  = time.Second

	movePatience = 2 * time.Second
	peerMemory   = 10 * time.Minute
)

// peer is a name and what waits for it. Its sender and its dial are goroutines that live as long as there is
// something to send or a link to make.
//
//	Send ──> queue ──> sender ──> link in use <── adopt <── dial, or a connection from outside
type peer struct {
	mesh *Mesh
	name string

	mu      sync.Mutex
	addr    string        // the latest that somebody asked for
	tried   string        // the latest that was dialled
	moved   time.Time     // when a link to a new address was last tried though one was up
	link    *link         // in use; nil: none
	up      chan struct{} // closed when link is set, then replaced
	try     *try          // the dial under way; nil: none
	failed  int           // dials in a row
	next    time.Time     // no dial before
	queue   []outgoing
	bytes   int
	sending bool // the sender runs
	wanted  time.Time
}

// outgoing is a packet that waits.
type outgoing struct {
	frame   []byte // kind, then data
	since   time.Time
	retried bool
}

// try is a dial that everybody who wants the link waits for.
type try struct {
	done chan struct{} // closed when err is set
	err  error
}

func newPeer(m *Mesh, name string) *peer {
	return &peer{mesh: m, name: name, up: make(chan struct{}), wanted: time.Now()}
}

// live returns the link in use, or nil.
func (p *peer) live() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.liveLocked()
}

func (p *peer) liveLocked() *link {
	if p.link != nil && p.link.alive() {
		return p.link
	}
	return nil
}

// push queues a packet, and drops the oldest if there is no room.
func (p *peer) push(addr string, frame []byte) error {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = now
	p.moveLocked(addr)
	for len(p.queue) > 0 && (len(p.queue) >= queuePackets || p.bytes+len(frame) > queueBytes) {
		p.shiftLocked()
		p.mesh.count(EventPacketQueueFull)
	}
	p.queue = append(p.queue, outgoing{frame: frame, since: now})
	p.bytes += len(frame)
	if p.sending {
		return nil
	}
	p.sending = p.mesh.spawn(p.send)
	if !p.sending {
		return ErrClosed
	}
	return nil
}

func (p *peer) shiftLocked() outgoing {
	first := p.queue[0]
	p.queue[0] = outgoing{}
	p.queue = p.queue[1:]
	p.bytes -= len(first.frame)
	return first
}

// moveLocked notes an address. The link in use stays until one to the new address is up and verified:
// whoever gossips a wrong address takes nobody's link away.
func (p *peer) moveLocked(addr string) {
	if addr != "" {
		p.addr = addr
	}
	if p.addr == p.tried {
		return
	}
	if now := time.Now(); p.liveLocked() != nil && now.Sub(p.moved) > movePatience {
		p.moved = now
		p.tryLocked(false)
	}
}

// send is the sender: it ends when the queue is empty.
func (p *peer) send() {
	for p.pending() {
		l, err := p.connect(p.mesh.ctx, "")
		if err != nil {
			continue // connect has waited; what got stale goes now
		}
		out, ok := p.take()
		if !ok {
			continue
		}
		if err := l.send(out.frame); err != nil {
			p.unsent(out)
		}
	}
}

// pending drops what is stale and says whether anything is left; if not, the sender is over.
func (p *peer) pending() bool {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 && now.Sub(p.queue[0].since) > packetPatience {
		p.shiftLocked()
		p.mesh.count(EventPacketStale)
	}
	p.sending = len(p.queue) > 0 && p.mesh.ctx.Err() == nil
	return p.sending
}

func (p *peer) take() (outgoing, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return outgoing{}, false
	}
	return p.shiftLocked(), true
}

// unsent gives a packet whose link ended under it another chance, once.
func (p *peer) unsent(out outgoing) {
	if out.retried {
		p.mesh.count(EventPacketUnsent)
		return
	}
	out.retried = true
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = append([]outgoing{out}, p.queue...)
	p.bytes += len(out.frame)
}

// connect returns the link in use; if there is none it dials, or joins the dial that is under way, and waits
// for it or for the peer to dial us.
func (p *peer) connect(ctx context.Context, addr string) (*link, error) {
	p.mu.Lock()
	p.wanted = time.Now()
	p.moveLocked(addr)
	if l := p.liveLocked(); l != nil {
		p.mu.Unlock()
		return l, nil
	}
	t, up := p.tryLocked(false), p.up
	p.mu.Unlock()
	select {
	case <-t.done:
	case <-up:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if l := p.live(); l != nil {
		return l, nil
	}
	select {
	case <-t.done:
		if t.err != nil {
			return nil, t.err
		}
	default:
	}
	return nil, fmt.Errorf("link to %s: lost at once", p.name)
}

// refresh dials although there is a link.
func (p *peer) refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tryLocked(true)
}

// tryLocked begins a dial unless one is under way. Unless it is to be a new link, one to the same address
// will do.
func (p *peer) tryLocked(fresh bool) *try {
	if p.try != nil {
		return p.try
	}
	t := &try{done: make(chan struct{})}
	addr, wait := p.addr, time.Until(p.next)
	p.tried = addr
	p.try = t
	if !p.mesh.spawn(func() { p.dial(t, addr, wait, fresh) }) {
		t.err = ErrClosed
		p.try = nil
		close(t.done)
	}
	return t
}

// dial is the one dial of a peer.
func (p *peer) dial(t *try, addr string, wait time.Duration, fresh bool) {
	err := ErrClosed
	select {
	case <-time.After(wait):
		if err = nil; fresh || !p.reaches(addr) {
			_, err = p.mesh.dial(p.mesh.ctx, addr, p.name)
		}
	case <-p.mesh.ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t.err = err
	p.try = nil
	close(t.done)
	if err == nil {
		p.failed, p.next = 0, time.Time{}
		return
	}
	pause := min(backoffFirst<<min(p.failed, 16), backoffLast)
	p.failed++
	p.next = time.Now().Add(pause/2 + rand.N(pause))
	p.mesh.count(EventDialFailed)
	p.mesh.log.Debug("dial", "peer", p.name, "addr", addr, "err", err)
}

// reaches says whether the link in use goes to addr.
func (p *peer) reaches(addr string) bool {
	l := p.live()
	if l == nil {
		return false
	}
	at, err := resolve(p.mesh.ctx, addr)
	return err == nil && at.String() == l.conn.RemoteAddr().String()
}

// adopt takes a link into use, or retires it if the one in use is to be preferred.
func (p *peer) adopt(l *link) {
	p.mu.Lock()
	old := p.link
	use := old == nil || l.supersedes(old)
	if use {
		p.link = l
		p.failed, p.next = 0, time.Time{}
		if p.addr == "" {
			p.addr = l.conn.RemoteAddr().String()
			p.tried = p.addr
		}
		close(p.up)
		p.up = make(chan struct{})
	} else {
		old = l
	}
	p.mu.Unlock()
	if use {
		p.mesh.count(EventLinkUp)
		p.mesh.log.Info("link is up", "peer", p.name, "addr", l.conn.RemoteAddr().String(), "dialled", l.dialled)
	}
	if old != nil {
		p.retire(old, l)
	}
}

// retire ends a link that another replaced: at once if its other end was restarted.
func (p *peer) retire(old, other *link) {
	if !old.alive() {
		return
	}
	p.mesh.count(EventLinkReplaced)
	if old.boot != other.boot || !p.mesh.spawn(old.drain) {
		old.close(codeReplaced, "replaced")
	}
}

// drop forgets a link that is over; false if it was not in use.
func (p *peer) drop(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != l {
		return false
	}
	p.link = nil
	return true
}

// idleSince is how long nobody wanted this peer; zero while it has a link or work.
func (p *peer) idleSince(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != nil || p.try != nil || p.sending {
		return 0
	}
	return now.Sub(p.wanted)
}
