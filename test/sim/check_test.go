// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// The invariants. Numbers are those that a failure names.
//
//	(0) no node refuses a message of another, or fails to make something durable
//	(1) no connection lives past the deadline, or the idle timeout, of its session by more than a second and drift
//	(2) what has ended at a node never lives there again, also not after a restart
//	(3) whoever serves and can be reached ends a killed session within a bound, the others within eight seconds of healing
//	(4) all nodes know the same within ten seconds of healing
//	(5) a session in use is not cut for idleness where its use can be known
//	(6) a node that was away is not ready before it knows what it missed
//	(7) nothing ends without a cause
//	(8) who acknowledged a kill has ended the session
const (
	lateness = time.Second
	// healing: two looks for members that are missing, in vain, and the beginning of a round with one that is cut off.
	healing  = 8 * time.Second
	agreeing = 10 * time.Second
)

// bound is how long a kill may take to a node that can be reached.
func (w *world) bound() time.Duration {
	return time.Second + time.Duration(w.run.loss/0.3*float64(2*time.Second))
}

// check looks at everything that must hold at any time.
func (w *world) check() {
	w.checkOrders()
	w.checkConnections()
	for _, n := range w.nodes {
		if l := n.running(); l != nil {
			w.checkNode(n, l)
		}
	}
}

// checkNode is about what has ended (2), and readiness (6).
func (w *world) checkNode(n *node, l *life) {
	n.mu.Lock()
	gone := make([]session.ID, 0, len(n.ended))
	for id := range n.ended {
		gone = append(gone, id)
	}
	n.mu.Unlock()
	for _, id := range gone {
		s, err := l.table.ByID(id)
		if err == nil {
			w.fail("(2) %s: session %s lives again, until %v", n.name, id.Short(), s.Until)
		}
		w.book.mu.Lock()
		f := w.book.facts[id]
		w.book.mu.Unlock()
		if f == nil {
			continue
		}
		if s, err = l.table.ByKey(f.key); err == nil && s.ID == id {
			w.fail("(2) %s: the key of session %s finds it", n.name, id.Short())
		}
	}
	if l.engine.Ready() && l.answers.Load() == 0 && !(n.index == 0 && n.lives == 1) {
		w.fail("(6) %s is ready, and nobody has told it anything", n.name)
	}
}

// checkConnections is about connections that live (1).
func (w *world) checkConnections() {
	now := time.Now()
	for _, n := range w.nodes {
		n.mu.Lock()
		live := make([]session.ID, 0, len(n.conns))
		for c := range n.conns {
			live = append(live, c.Session())
		}
		gone := map[session.ID]bool{}
		for _, id := range live {
			gone[id] = !n.ended[id].IsZero()
		}
		n.mu.Unlock()
		w.book.mu.Lock()
		for _, id := range live {
			f := w.book.facts[id]
			if f == nil {
				continue
			}
			late := now.Sub(f.deadline)
			w.book.late = max(w.book.late, late)
			switch {
			case gone[id]:
				w.fail("(1) %s: a connection of session %s lives, which has ended there", n.name, id.Short())
			case late > lateness+driftOf(f):
				w.fail("(1) %s: a connection of session %s lives %v past its deadline", n.name, id.Short(), late)
			case f.idle > 0 && now.Sub(w.book.lastUsedLocked(f)) > f.idle+idleGrace+lateness:
				w.fail("(1) %s: a connection of session %s lives %v past its idle timeout", n.name, id.Short(), now.Sub(w.book.lastUsedLocked(f))-f.idle)
			}
		}
		w.book.mu.Unlock()
	}
}

// checkOrders is about sessions that are to end everywhere (3).
func (w *world) checkOrders() {
	b := w.book
	b.mu.Lock()
	defer b.mu.Unlock()
	open := b.orders[:0]
	for _, o := range b.orders {
		for n := range o.left {
			w.checkOrderLocked(o, n)
		}
		switch {
		case time.Now().After(o.fact.deadline): // it ends by itself
		case len(o.left) > 0:
			open = append(open, o)
		default:
			b.done = append(b.done, o)
		}
	}
	b.orders = open
}

func (w *world) checkOrderLocked(o *order, n *node) {
	now, l := time.Now(), n.running()
	if l == nil {
		return
	}
	n.mu.Lock()
	at := n.ended[o.fact.id]
	n.mu.Unlock()
	_, err := l.table.ByID(o.fact.id)
	if o.new[n] = o.new[n] || errors.Is(err, session.ErrNotFound); at.IsZero() && ended(err) {
		at, o.new[n] = now, true
	}
	since := w.together(o.by, n)
	within, from := w.bound(), o.at
	if since.After(o.at.Add(-healing)) { // it could not be reached, or has come back only
		within, from = healing, later(since, o.at)
	}
	switch {
	case !at.IsZero():
		delete(o.left, n)
		if within != healing && !o.new[n] && !since.IsZero() {
			w.book.worst = max(w.book.worst, at.Sub(o.at))
		}
	case err == nil && l.engine.Ready() && !since.IsZero() && now.Sub(from) > within && now.Before(o.fact.deadline):
		delete(o.left, n) // once
		w.fail("(3) %s: session %s lives %v after it was ended at %s; the two have been in touch for %v", n.name, o.fact.id.Short(), now.Sub(o.at), o.by.name, now.Sub(since))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
