// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"sync"

	"github.com/curfew-proxy/curfew/agent/session"
)

// inbox is what was received and waits to be applied, off the goroutines that receive. What ends sessions has
// lanes of its own. The items of one session go through the same lane, so that the order that came second
// finds what the first one did.
type inbox struct {
	urgent [urgentLanes]lane
	normal [normalLanes]lane
	rest   lane // documents: slow, and nobody waits for them
}

const (
	urgentLanes = 4
	normalLanes = 2

	urgentLimit = 16_384 // items waiting in a lane
	normalLimit = 8_192
	restLimit   = 256

	laneBatch = 256 // items that are made durable together
)

// arrival is an item that was received.
type arrival struct {
	it     item
	rec    session.Record // of CREATE, REVOKE, ACTIVITY and KILL
	kill   uint64         // of KILL
	report bool
	from   string // whom it came from; empty: gossip
	peer   *peer  // who is to have an acknowledgement; or nil
	epoch  uint64 // the numbers are of
	at     session.Instant
	relay  bool // news of an end is to be gossiped on
	// clockless is set of a WATERMARK if whom it came from does not know the clock of its origin.
	clockless bool
	finished  func(applied bool) // or nil
}

// lane is a bounded queue with one reader.
type lane struct {
	limit int

	mu   sync.Mutex
	list []arrival
	wake chan struct{}
}

func newInbox() *inbox {
	b := &inbox{rest: lane{limit: restLimit, wake: make(chan struct{}, 1)}}
	for i := range b.urgent {
		b.urgent[i] = lane{limit: urgentLimit, wake: make(chan struct{}, 1)}
	}
	for i := range b.normal {
		b.normal[i] = lane{limit: normalLimit, wake: make(chan struct{}, 1)}
	}
	return b
}

// of returns the lane that an arrival goes through.
func (b *inbox) of(a *arrival) *lane {
	shard := int(a.rec.ID[len(a.rec.ID)-1])
	switch {
	case a.it.kind == itemOpaque:
		return &b.rest
	case a.it.kind.urgent() || a.rec.Revoked != nil:
		return &b.urgent[shard%urgentLanes]
	}
	return &b.normal[shard%normalLanes]
}

// put reports whether there was room.
func (l *lane) put(a arrival) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) >= l.limit {
		return false
	}
	l.list = append(l.list, a)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

// get waits for arrivals, and returns at most laneBatch of them.
func (l *lane) get(ctx context.Context) ([]arrival, error) {
	for {
		l.mu.Lock()
		n := min(len(l.list), laneBatch)
		batch := l.list[:n:n]
		if l.list = l.list[n:]; len(l.list) == 0 {
			l.list = nil
		}
		l.mu.Unlock()
		if n > 0 {
			return batch, nil
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// work applies what comes through a lane until ctx is done.
func (e *Engine) work(ctx context.Context, l *lane) {
	for {
		batch, err := l.get(ctx)
		if err != nil {
			return
		}
		e.apply(ctx, batch)
	}
}

// apply makes a batch durable, acknowledges what was, and reports on kills.
func (e *Engine) apply(ctx context.Context, batch []arrival) {
	applied := make([]bool, len(batch))
	var records []session.Record
	var merged []int // index in batch of each of records
	for i := range batch {
		a := &batch[i]
		switch {
		case a.it.kind == itemWatermark:
			applied[i] = e.applyWatermark(a)
		case a.it.kind == itemOpaque:
			applied[i] = e.applyDocument(a)
		case a.rec.Revoked == nil && !e.knowsClock(a):
			// Merged without a clock, it would count as activity that moves no lease.
		default:
			records, merged = append(records, a.rec), append(merged, i)
		}
	}
	if len(records) > 0 {
		e.merge(batch, records, merged, applied)
	}
	e.finish(ctx, batch, applied)
}

// merge merges the records of a batch, and sets for each whether it was applied.
func (e *Engine) merge(batch []arrival, records []session.Record, indexes []int, applied []bool) {
	result, err := e.cfg.Table.Merge(records)
	e.recent.add(result.Ended, e.cfg.Clock.Boot())
	if err != nil {
		e.cfg.Count(CountMergeErrors, 1)
		e.cfg.Log.Error("take over sessions of other nodes", "error", err)
	}
	unknown := map[session.ID]bool{}
	for _, id := range result.Unknown {
		unknown[id] = true
	}
	news := map[session.ID]bool{}
	for _, r := range result.News {
		news[r.ID] = true
	}
	for _, i := range indexes {
		a := &batch[i]
		applied[i] = err == nil && !unknown[a.rec.ID]
		if a.relay && a.rec.Revoked != nil && news[a.rec.ID] {
			e.gossipRevoke(&a.rec)
		}
	}
}

func (e *Engine) knowsClock(a *arrival) bool {
	_, _, ok := e.cfg.Timebase.Offset(a.rec.Origin)
	if !ok {
		e.cfg.Count(CountNoClock, 1)
		e.askClock(a.peer)
	}
	return ok
}

// applyWatermark waits for the clock of the watermark's origin: a session whose clock cannot be compared
// with it would be taken to be older. One that asks for a fresh sign-in does not wait for a clock that nobody knows any
// more: it holds by what the provider says, and has to be known to nodes that join when its origin is long gone.
func (e *Engine) applyWatermark(a *arrival) bool {
	w, err := a.it.watermark()
	if err != nil {
		return false // checked when it was received
	}
	if _, _, ok := e.cfg.Timebase.Offset(w.Origin); !ok && (w.Fresh == 0 || !a.clockless) {
		e.cfg.Count(CountNoClock, 1)
		e.askClock(a.peer)
		return false
	}
	news, err := e.raise(w)
	if err != nil {
		e.cfg.Count(CountMergeErrors, 1)
		e.cfg.Log.Error("take over watermark", "subject", w.Subject, "error", err)
		return false
	}
	if news && a.relay {
		e.gossip(watermarkName(&w), a.it)
	}
	return true
}

// applyDocument counts a document that its owner refuses as taken: it would be no better the next time.
func (e *Engine) applyDocument(a *arrival) bool {
	d, err := a.it.document()
	if err != nil || e.cfg.Document == nil {
		return err == nil
	}
	if err := e.cfg.Document(a.from, d); err != nil {
		e.cfg.Log.Warn("take over document", "from", a.from, "kind", d.Kind, "error", err)
	}
	return true
}

// finish acknowledges, and tells who waits.
func (e *Engine) finish(ctx context.Context, batch []arrival, applied []bool) {
	type run struct {
		peer  *peer
		epoch uint64
	}
	acks := map[run][]uint64{}
	for i := range batch {
		a := &batch[i]
		ok := applied[i]
		if a.report {
			ok = e.reports.order(a, ok) && ok
		}
		if a.peer != nil {
			a.peer.settled(a.epoch, a.it.number, ok)
			if ok {
				acks[run{a.peer, a.epoch}] = append(acks[run{a.peer, a.epoch}], a.it.number)
			}
		}
		if a.finished != nil {
			a.finished(ok)
		}
	}
	for to, numbers := range acks {
		e.sendAck(to.peer, to.epoch, numbers)
	}
}

// settled notes what became of an item that was received.
func (p *peer) settled(epoch, number uint64, applied bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch == epoch {
		p.received.end(number, applied)
	}
}

func (e *Engine) sendAck(p *peer, epoch uint64, numbers []uint64) {
	for len(numbers) > 0 {
		n := min(len(numbers), maxAcks)
		e.send(p.name, encodeAck(ack{epoch: epoch, numbers: numbers[:n]}))
		numbers = numbers[n:]
	}
}
