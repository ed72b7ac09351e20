// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// recentEndings remembers which sessions ended here: the order to report on one may come after gossip or a
// watermark has ended it.
type recentEndings struct {
	room int

	mu        sync.Mutex
	byID      map[session.ID]recentEnding
	fifo      []session.ID    // the keys of byID, oldest first
	overflown session.Instant // when one was forgotten for want of room; zero: never
}

type recentEnding struct {
	number uint64
	at     session.Instant
}

const (
	recentRoom = 2 * session.DefaultMaxSessions // 48 bytes each
	recentAge  = time.Minute
)

func newRecentEndings(room int) *recentEndings {
	return &recentEndings{room: room, byID: map[session.ID]recentEnding{}}
}

func (r *recentEndings) add(endings []session.Ending, now session.Instant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range endings {
		if _, ok := r.byID[e.Session.ID]; !ok {
			r.byID[e.Session.ID] = recentEnding{e.Number, now}
			r.fifo = append(r.fifo, e.Session.ID)
		}
	}
	for len(r.fifo) > 0 {
		young := now.Sub(r.byID[r.fifo[0]].at) <= recentAge
		if young && len(r.fifo) <= r.room {
			return
		}
		if young {
			r.overflown = now
		}
		delete(r.byID, r.fifo[0])
		r.fifo = r.fifo[1:]
	}
}

// of returns those of the sessions that are known to have ended, and whether that may be all of them.
func (r *recentEndings) of(ids []session.ID, now session.Instant) (list []EndedSession, all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if e, ok := r.byID[id]; ok {
			list = append(list, EndedSession{id, e.number})
		}
	}
	return list, len(list) == len(ids) || r.overflown == 0 || now.Sub(r.overflown) > recentAge
}

// Ended is to be called with each session that ends here, as soon as it has (from session.TableConfig.OnEnd): an
// order to report on it may be at work already while its end is being made durable.
func (e *Engine) Ended(ending session.Ending) {
	e.recent.add([]session.Ending{ending}, e.cfg.Clock.Boot())
}

// reporter finds out what became of the connections of sessions that other nodes ordered to end, and reports
// it to them. What is ordered while it waits is reported on together.
type reporter struct {
	engine *Engine

	mu     sync.Mutex
	orders map[orderName]*order
	queue  []*order
	ids    int // that wait, in all orders
	seen   int // in all orders
	wake   chan struct{}
}

const (
	reporters  = 8
	maxOrders  = 1024
	maxWaiting = 131_072                        // sessions
	maxSeen    = 2 * session.DefaultMaxSessions // in all orders; one may be of all sessions
	orderAge   = 5 * time.Minute                // then nobody sends it again
)

// orderName names a kill of another node.
type orderName struct {
	node  string
	epoch uint64
	kill  uint64
}

type order struct {
	name    orderName
	peer    *peer
	seen    map[session.ID]bool
	waiting []session.ID
	first   session.Instant // when the first of waiting came
	last    session.Instant // when it was last heard of
	part    uint64          // of the last report
	undone  bool            // something of waiting did not become durable
}

func newReporter(e *Engine) *reporter {
	return &reporter{engine: e, orders: map[orderName]*order{}, wake: make(chan struct{}, 1)}
}

// order takes an order that was carried out, and reports whether there was room for it.
func (r *reporter) order(a *arrival, durable bool) bool {
	if a.peer == nil {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	name := orderName{a.peer.name, a.epoch, a.kill}
	o := r.orders[name]
	if o == nil {
		if o = r.newOrderLocked(name, a); o == nil {
			return false
		}
	}
	o.last = a.at
	if o.seen[a.rec.ID] {
		return true
	}
	if r.ids >= maxWaiting || r.seen >= maxSeen {
		r.forgetLocked(a.at)
		return false // it is sent again
	}
	o.seen[a.rec.ID] = true
	r.seen++
	if len(o.waiting) == 0 {
		o.first = a.at
		r.queue = append(r.queue, o)
	}
	o.waiting = append(o.waiting, a.rec.ID)
	o.undone = o.undone || !durable
	r.ids++
	wake(r.wake)
	return true
}

func (r *reporter) newOrderLocked(name orderName, a *arrival) *order {
	r.forgetLocked(a.at)
	if len(r.orders) >= maxOrders {
		return nil
	}
	o := &order{name: name, peer: a.peer, seen: map[session.ID]bool{}}
	r.orders[name] = o
	return o
}

// forgetLocked forgets orders that nobody sends again.
func (r *reporter) forgetLocked(now session.Instant) {
	for name, o := range r.orders {
		if len(o.waiting) == 0 && now.Sub(o.last) > orderAge {
			r.seen -= len(o.seen)
			delete(r.orders, name)
		}
	}
}

// task is what of an order is reported on together.
type task struct {
	peer   *peer
	ids    []session.ID
	report report
	first  session.Instant
}

func (r *reporter) next() (task, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return task{}, false
	}
	o := r.queue[0]
	if r.queue = r.queue[1:]; len(r.queue) > 0 {
		wake(r.wake) // another reporter
	}
	o.part++
	t := task{peer: o.peer, ids: o.waiting, first: o.first, report: report{kill: o.name.kill, part: o.part, covered: len(o.waiting)}}
	if o.undone {
		t.report.err = "sessions ended, but their end is not durable"
	}
	r.ids -= len(o.waiting)
	o.waiting, o.undone = nil, false
	return t, true
}

// run reports until ctx is done.
func (r *reporter) run(ctx context.Context) {
	for {
		t, ok := r.next()
		if ok {
			r.report(ctx, t)
			continue
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
	}
}

// endings waits a little for those that are being carried out: the table knows that a session has ended before
// anybody is told. It reports whether these may be all.
func (r *reporter) endings(ctx context.Context, ids []session.ID) (list []EndedSession, all bool) {
	e := r.engine
	for until := e.cfg.Clock.Boot().Add(endingPatience); ; {
		now := e.cfg.Clock.Boot()
		list, all = e.recent.of(ids, now)
		if len(list) >= len(ids) || now >= until || !sleepUntil(ctx, e.cfg.Clock, now.Add(endingPatience/20), nil) {
			return list, all
		}
	}
}

// endingPatience is for a machine that is busy. Sessions that a node never had take as long to report on.
const endingPatience = 100 * time.Millisecond

func (r *reporter) report(ctx context.Context, t task) {
	e := r.engine
	endings, all := r.endings(ctx, t.ids)
	if len(endings) > 0 {
		if e.cfg.Outcome == nil {
			t.report.unverified = true
		} else {
			o, err := e.cfg.Outcome(ctx, endings)
			t.report.destroyed, t.report.gone, t.report.left = max(o.Destroyed, 0), max(o.Gone, 0), max(o.Left, 0)
			t.report.unverified = !o.Verified
			if err != nil {
				t.report.err = err.Error()
			}
		}
	}
	t.report.unverified = t.report.unverified || !all
	now := e.cfg.Clock.Boot()
	t.report.took = now.Sub(t.first)
	e.put(t.peer, outboxKey{kind: itemReport, n: t.report.kill, name: string(appendVarint(nil, 1, t.report.part))}, encodeReport(&t.report), now, nil, nil)
}
