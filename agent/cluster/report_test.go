// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

func numbered(i int) (id session.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(i+1))
	return id
}

// An order about more sessions than 131,072 was refused from there on, and its node called silent.
func TestOrderAboutAllSessions(t *testing.T) {
	r := newReporter(&Engine{})
	p := newPeer("b")
	covered := 0
	take := func() {
		next, ok := r.next()
		if !ok {
			t.Fatal("nothing to report on")
		}
		covered += len(next.ids)
	}
	a := arrival{peer: p, epoch: 1, kill: 7}
	for i := range session.DefaultMaxSessions {
		a.rec.ID = numbered(i)
		if r.order(&a, true) {
			continue
		}
		take() // too many wait: it is sent again
		if !r.order(&a, true) {
			t.Fatalf("refused after %d", i)
		}
	}
	if take(); covered != session.DefaultMaxSessions {
		t.Errorf("%d sessions are reported on", covered)
	}
	// Those that nobody sends again make room.
	r.seen = maxSeen
	a.kill, a.at, a.rec.ID = 8, a.at.Add(orderAge+1), numbered(-2)
	_ = r.order(&a, true)
	if !r.order(&a, true) || r.seen != maxSeen-session.DefaultMaxSessions+1 {
		t.Errorf("refused with %d remembered", r.seen)
	}
}

// What was forgotten for want of room must not pass for a session without connections.
func TestEndingsThatAreForgottenAreNotProven(t *testing.T) {
	r := newRecentEndings(2)
	var now session.Instant = 1
	end := func(i int) {
		r.add([]session.Ending{{Session: session.Session{ID: numbered(i)}, Number: uint64(i)}}, now)
	}
	end(1)
	end(2)
	end(2) // the table and the protocol both say so
	if got, all := r.of([]session.ID{numbered(1), numbered(2), numbered(9)}, now); len(got) != 2 || !all || got[0] != (EndedSession{numbered(1), 1}) {
		t.Errorf("%v, all %v", got, all)
	}
	end(3)
	if got, all := r.of([]session.ID{numbered(1), numbered(2)}, now); len(got) != 1 || all {
		t.Errorf("%v, all %v", got, all)
	}
	if got, all := r.of([]session.ID{numbered(2), numbered(3)}, now); len(got) != 2 || !all {
		t.Errorf("%v, all %v", got, all)
	}
	now = now.Add(2 * time.Minute)
	end(4)
	if got, all := r.of([]session.ID{numbered(1), numbered(4)}, now); len(got) != 1 || !all || len(r.byID) != 1 || len(r.fifo) != 1 {
		t.Errorf("%v, all %v, %d and %d remembered", got, all, len(r.byID), len(r.fifo))
	}
}
