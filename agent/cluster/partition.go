// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"sync"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Majority says whether this node sees more than half of the nodes that there are: those known at the start
// and those that came since, without those that left or were removed.
type Majority struct {
	Have      bool
	Since     session.Instant // of Have
	Known     int             // nodes, this one included
	Reachable int             // of these, this one included
}

// quorum keeps count of who there is.
type quorum struct {
	mu    sync.Mutex
	self  string
	known map[string]bool // this node excluded
	first bool            // what Have was at first: nobody is told of that
	now   Majority
}

// newQuorum begins without a majority, unless this node is all there is.
func newQuorum(self string, peers []string, now session.Instant) *quorum {
	q := &quorum{self: self, known: map[string]bool{}}
	for _, p := range peers {
		if p != self {
			q.known[p] = true
		}
	}
	q.first = len(q.known) == 0
	q.now = Majority{Have: q.first, Since: now, Known: len(q.known) + 1, Reachable: 1}
	return q
}

// update counts again.
func (q *quorum) update(states map[string]MemberState, now session.Instant) {
	q.mu.Lock()
	defer q.mu.Unlock()
	reachable := 1
	for name, state := range states {
		switch {
		case name == q.self:
		case state == Left:
			delete(q.known, name)
		case state.reachable():
			if len(q.known) < maxPeers {
				q.known[name] = true
			}
			reachable++
		}
	}
	q.now.Known, q.now.Reachable = len(q.known)+1, reachable
	if have := 2*reachable > q.now.Known; have != q.now.Have {
		q.now.Have, q.now.Since = have, now
	}
}

func (q *quorum) forget(node string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.known, node)
}

func (q *quorum) get() Majority {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.now
}

// quorumLoop tells of the majority until ctx is done: one goroutine, so that the last that is told is how it is.
func (e *Engine) quorumLoop(ctx context.Context) {
	told := e.quorum.first
	for sleepUntil(ctx, e.cfg.Clock, 0, e.quorumWake) {
		if m := e.quorum.get(); m.Have != told {
			told = m.Have
			if e.cfg.OnMajority != nil {
				e.cfg.OnMajority(m)
			}
		}
	}
}

// Majority returns whether this node sees the majority, since when, and of how many.
func (e *Engine) Majority() Majority { return e.quorum.get() }
