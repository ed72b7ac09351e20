// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"container/heap"
	"context"
	"sync"

	"github.com/curfew-proxy/curfew/agent/session"
)

// agenda says when something is due with which peer, so that of many peers only those are looked at with whom there
// is something to do. Safe for concurrent use; one goroutine runs it.
type agenda struct {
	wake chan struct{}

	mu    sync.Mutex
	heap  byPlace[*date]
	dates map[*peer]*date
}

// date is when something is due with a peer.
type date struct {
	peer  *peer
	at    session.Instant
	index int // in the heap
}

func newAgenda() *agenda { return &agenda{wake: make(chan struct{}, 1), dates: map[*peer]*date{}} }

// add makes something due with a peer at an instant, or before if it was.
func (a *agenda) add(p *peer, at session.Instant) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.dates[p]
	switch {
	case d == nil:
		d = &date{peer: p, at: at}
		a.dates[p] = d
		heap.Push(&a.heap, d)
	case at < d.at:
		d.at = at
		heap.Fix(&a.heap, d.index)
	default:
		return
	}
	if d.index == 0 {
		wake(a.wake)
	}
}

// take removes and returns a peer with whom something is due; else nil, and when to come again: zero if nothing is
// going to be due.
func (a *agenda) take(now session.Instant) (p *peer, next session.Instant) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case len(a.heap) == 0:
		return nil, 0
	case a.heap[0].at > now:
		return nil, a.heap[0].at
	}
	d := heap.Pop(&a.heap).(*date)
	delete(a.dates, d.peer)
	return d.peer, now
}

// run does what is due with peers that can be reached, each time it is, until ctx is done. do returns when something
// is due next; zero: nothing is.
func (a *agenda) run(ctx context.Context, clock session.Clock, do func(p *peer, now session.Instant) session.Instant) {
	for {
		now := clock.Boot()
		p, next := a.take(now)
		switch {
		case p == nil:
			if !sleepUntil(ctx, clock, next, a.wake) {
				return
			}
		case ctx.Err() != nil:
			return
		case p.is().reachable():
			if next := do(p, now); next != 0 {
				a.add(p, max(next, now+1)) // after the others that are due
			}
		}
	}
}

func (d *date) before(other *date) bool { return d.at < other.at }
func (d *date) place() *int             { return &d.index }
