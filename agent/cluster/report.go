// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// recentEndings remembers which sessions ended here because another node said so: the order to report on one may
// come after gossip has ended it.
type recentEndings struct {
	mu   sync.Mutex
	byID map[session.ID]recentEnding
	fifo []session.ID
}

type recentEnding struct {
	ending session.Ending
	at     session.Instant
}

const (
	recentSize = 65_536
	recentAge  = time.Minute
)

func newRecentEndings() *recentEndings { return &recentEndings{byID: map[session.ID]recentEnding{}} }

func (r *recentEndings) add(endings []session.Ending, now session.Instant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range endings {
		r.byID[e.Session.ID] = recentEnding{e, now}
		r.fifo = append(r.fifo, e.Session.ID)
	}
	for len(r.fifo) > recentSize || len(r.fifo) > 0 && now.Sub(r.byID[r.fifo[0]].at) > recentAge {
		delete(r.byID, r.fifo[0])
		r.fifo = r.fifo[1:]
	}
}

func (r *recentEndings) of(ids []session.ID) []session.Ending {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []session.Ending
	for _, id := range ids {
		if e, ok := r.byID[id]; ok {
			list = append(list, e.ending)
		}
	}
	return list
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
	wake   chan struct{}
}

const (
	reporters   = 8
	maxOrders   = 1024
	maxOrderIDs = 131_072
	orderAge    = 5 * time.Minute // then nobody sends it again
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
	if r.ids >= maxOrderIDs || len(o.seen) >= maxOrderIDs {
		return false
	}
	o.seen[a.rec.ID] = true
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
	for n, o := range r.orders {
		if len(o.waiting) == 0 && a.at.Sub(o.last) > orderAge {
			delete(r.orders, n)
		}
	}
	if len(r.orders) >= maxOrders {
		return nil
	}
	o := &order{name: name, peer: a.peer, seen: map[session.ID]bool{}}
	r.orders[name] = o
	return o
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
// anybody is told.
func (r *reporter) endings(ctx context.Context, ids []session.ID) []session.Ending {
	e := r.engine
	for until := e.cfg.Clock.Boot().Add(endingPatience); ; {
		endings := e.recent.of(ids)
		now := e.cfg.Clock.Boot()
		if len(endings) >= len(ids) || now >= until || !sleepUntil(ctx, e.cfg.Clock, now.Add(endingPatience/20), nil) {
			return endings
		}
	}
}

// endingPatience is for a machine that is busy. Sessions that a node never had take as long to report on.
const endingPatience = 100 * time.Millisecond

func (r *reporter) report(ctx context.Context, t task) {
	e := r.engine
	if endings := r.endings(ctx, t.ids); len(endings) > 0 {
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
	now := e.cfg.Clock.Boot()
	t.report.took = now.Sub(t.first)
	t.peer.outbox.put(outboxKey{kind: itemReport, n: t.report.kill, name: string(appendVarint(nil, 1, t.report.part))}, encodeReport(&t.report), now, nil, nil)
	e.wakePump()
}
