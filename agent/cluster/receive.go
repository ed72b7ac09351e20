// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"hash/maphash"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Receive takes a packet of a member; data is the engine's from now on. It does not block.
func (e *Engine) Receive(from string, data []byte) {
	now := e.cfg.Clock.Boot()
	e.cfg.Count(CountReceived, 1)
	p := e.peer(from)
	if p == nil {
		return // ourselves
	}
	kind, body, err := openMessage(data, maxMessage)
	if err == nil {
		switch kind {
		case kindState:
			err = e.receiveState(p, body, now)
		case kindAck:
			err = e.receiveAck(p, body)
		case kindClock:
			err = e.receiveClock(p, body, now)
		default:
			e.cfg.Count(CountUnknown, 1)
		}
	}
	if err != nil {
		e.refused(from, err)
	}
}

// refused notes a message that cannot be read.
func (e *Engine) refused(from string, err error) {
	e.cfg.Count(CountMalformed, 1)
	e.cfg.Log.Warn("refused a message", "from", from, "error", err)
}

func (e *Engine) receiveState(p *peer, body []byte, now session.Instant) error {
	s, err := decodeState(body)
	if err != nil {
		return err
	}
	if s.sender.Node != p.name || s.sender.Boot == 0 || s.epoch == 0 {
		return errMalformed
	}
	arrivals, err := e.arrivals(&s, p.name, now)
	if err != nil {
		return err
	}
	e.introduce(p, s.sender.Boot, s.epoch)
	e.learn(&s, p)
	var done []uint64
	for _, a := range arrivals {
		a.peer, a.epoch = p, s.epoch
		if e.take(p, a) {
			done = append(done, a.it.number)
		}
	}
	e.sendAck(p, s.epoch, done)
	return nil
}

// take sees to an item that is to be acknowledged, and reports whether it can be at once.
func (e *Engine) take(p *peer, a arrival) (done bool) {
	p.mu.Lock()
	apply, done := p.received.begin(a.it.number)
	p.mu.Unlock()
	if !apply {
		return done
	}
	switch a.it.kind {
	case itemReport:
		r, _ := a.it.report() // read before, in arrivals
		e.kills.report(p.name, r)
		done = true
	case itemCreate, itemRevoke, itemActivity, itemKill, itemWatermark, itemOpaque:
		if e.inbox.of(&a).put(a) {
			return false // by the lane
		}
		e.cfg.Count(CountInboxFull, 1)
	default:
		e.cfg.Count(CountUnknownItems, 1)
		done = true // it will be no better known the next time
	}
	p.settled(a.epoch, a.it.number, done)
	return done
}

// arrivals reads all items of a message, so that it is taken as a whole or not at all.
func (e *Engine) arrivals(s *state, from string, now session.Instant) ([]arrival, error) {
	list := make([]arrival, 0, len(s.items))
	for _, it := range s.items {
		a := arrival{it: it, from: from, at: now}
		var err error
		switch it.kind {
		case itemCreate, itemRevoke, itemActivity:
			a.rec, err = it.record()
		case itemKill:
			var k killOrder
			k, err = it.killOrder()
			a.rec, a.kill, a.report = k.record, k.kill, k.report
		case itemWatermark:
			_, err = it.watermark()
		case itemReport:
			_, err = it.report()
		case itemOpaque:
			_, err = it.document()
		}
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}

// learn takes over what a message says of clocks.
func (e *Engine) learn(s *state, p *peer) {
	for _, c := range s.clocks {
		e.cfg.Timebase.learn(s.sender, c)
	}
	if p == nil {
		return
	}
	if _, _, ok := e.cfg.Timebase.Offset(s.sender); !ok {
		e.askClock(p)
	}
}

func (e *Engine) receiveAck(p *peer, body []byte) error {
	a, err := decodeAck(body)
	if err != nil || a.epoch != e.epoch {
		return err // for a run before this one: nothing waits for it
	}
	for _, g := range p.outbox.acked(a.numbers) {
		g.task.acked(p)
	}
	e.deliveries.add(p, e.cfg.Clock.Boot()) // there is room for more
	return nil
}

// Gossiped takes a message that came by gossip, and reports whether it is news, to be passed on. data is the
// engine's from now on. It does not block.
func (e *Engine) Gossiped(data []byte) (news bool) {
	if !e.seen.add(maphash.Bytes(e.seen.seed, data)) {
		return false
	}
	kind, body, err := openMessage(data, maxMessage)
	switch {
	case err != nil && len(data) > 1 && data[0] != wireVersion, err == nil && kind != kindState:
		e.cfg.Count(CountUnknown, 1)
		return true // those who know the version or kind shall have it
	case err == nil:
		err = e.gossiped(body)
	}
	if err != nil {
		e.refused("gossip", err)
	}
	return err == nil
}

func (e *Engine) gossiped(body []byte) error {
	s, err := decodeState(body)
	if err != nil {
		return err
	}
	arrivals, err := e.arrivals(&s, "", e.cfg.Clock.Boot())
	if err != nil {
		return err
	}
	e.learn(&s, nil)
	for _, a := range arrivals {
		switch a.it.kind {
		case itemCreate, itemRevoke, itemActivity, itemWatermark, itemOpaque:
			if !e.inbox.of(&a).put(a) {
				e.cfg.Count(CountInboxFull, 1) // delivery or anti-entropy bring it again
			}
		}
	}
	return nil
}
