// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Clock exchanges: some ten a second, spread over all peers, and several in a row with a new one. As long as
// the clock of a peer is not known at all it is asked again and again.
const (
	probeEvery   = 100 * time.Millisecond
	burstEvery   = 10 * time.Millisecond
	newPeerBurst = 8
)

// exchangeInTurn begins an exchange with one peer after the other, until ctx is done.
func (e *Engine) exchangeInTurn(ctx context.Context) {
	for turn := 0; sleepUntil(ctx, e.cfg.Clock, e.cfg.Clock.Boot().Add(probeEvery), nil); turn++ {
		if live := e.livePeers(); len(live) > 0 {
			e.probe(live[turn%len(live)], e.cfg.Clock.Boot())
		}
	}
}

// exchange begins an exchange with a peer that is new, or of which the clock is not known, and returns when
// the next is due; zero: when it has its turn.
func (e *Engine) exchange(p *peer, now session.Instant) session.Instant {
	known := e.knowsClockOf(p)
	p.mu.Lock()
	every := burstEvery
	if p.burst <= 0 {
		every *= 10
	}
	wanted := p.burst > 0 || !known
	due := p.probed.Add(every)
	if p.burst > 0 && now >= due {
		p.burst--
	}
	p.mu.Unlock()
	switch {
	case !wanted:
		return 0
	case now < due:
		return due
	}
	e.probe(p, now)
	return now.Add(burstEvery)
}

// knowsClockOf reports whether the clock of a peer has been compared with ours.
func (e *Engine) knowsClockOf(p *peer) bool {
	origin, introduced := p.origin()
	if !introduced {
		return false
	}
	_, _, known := e.cfg.Timebase.Offset(origin)
	return known
}

// introduce is peer.introduce.
func (e *Engine) introduce(p *peer, boot, epoch uint64) {
	if p.introduce(boot, epoch) {
		e.exchanges.add(p, e.cfg.Clock.Boot())
	}
}

// askClock makes the next exchange with a peer due soon; nil: nobody to ask.
func (e *Engine) askClock(p *peer) {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.burst = max(p.burst, 1)
	p.mu.Unlock()
	e.exchanges.add(p, e.cfg.Clock.Boot())
}

// probe begins an exchange.
func (e *Engine) probe(p *peer, now session.Instant) {
	p.mu.Lock()
	p.probed = now
	copy(p.asked[1:], p.asked[:])
	p.asked[0] = now
	p.mu.Unlock()
	m := e.aboutUs()
	m.t1 = now
	e.send(p.name, encodeClock(m))
}

// aboutUs is what every clock message tells of its sender.
func (e *Engine) aboutUs() clockMessage {
	return clockMessage{boot: e.self.Boot, epoch: e.epoch, wall: e.cfg.Clock.Wall().UnixNano(), sessions: e.cfg.Table.Count(), connections: e.cfg.Table.Connections(), ready: e.Ready()}
}

// receiveClock answers an exchange, or ends one.
func (e *Engine) receiveClock(p *peer, body []byte, now session.Instant) error {
	m, err := decodeClockMessage(body)
	if err != nil {
		return err
	}
	if m.boot == 0 || m.epoch == 0 {
		return errMalformed
	}
	if !m.reply {
		e.introduce(p, m.boot, m.epoch)
		answer := e.aboutUs()
		answer.reply, answer.t1, answer.t2 = true, m.t1, now
		answer.t3 = e.cfg.Clock.Boot()
		e.send(p.name, encodeClock(answer))
		return nil
	}
	if !p.answered(m.t1) {
		return nil // a duplicate, or so late that it says nothing
	}
	e.introduce(p, m.boot, m.epoch)
	e.cfg.Timebase.sample(session.Origin{Node: p.name, Boot: m.boot}, m.t1, m.t2, m.t3, now)
	trip := max(now.Sub(m.t1)-m.t3.Sub(m.t2), 0)
	p.noteAnswer(m, trip, now)
	e.noteWall(p, time.Unix(0, m.wall).Sub(e.cfg.Clock.Wall().Add(-trip/2)), trip)
	return nil
}

// answered reports whether an exchange that was begun at t1 is still open, and closes it.
func (p *peer) answered(t1 session.Instant) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, asked := range p.asked {
		if asked == t1 && t1 != 0 {
			p.asked[i] = 0
			return true
		}
	}
	return false
}

func (p *peer) noteAnswer(m clockMessage, trip time.Duration, now session.Instant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions, p.connections, p.ready, p.heard = m.sessions, m.connections, m.ready, now
	if p.trip == 0 {
		p.trip = trip
	}
	p.trip += (trip - p.trip) / 8 // RFC 6298's alpha
}

// Skew is how far the wall clock of another node is ahead of ours. It is only told of: sessions end by
// CLOCK_BOOTTIME. A wall clock that is wrong spoils logs, and the checks of certificates and tokens.
type Skew struct {
	Node  string
	Ahead time.Duration
	Alarm bool // false: it is over
}

const (
	skewLimit = time.Second
	skewOver  = skewLimit - 100*time.Millisecond // so that one at the limit does not come and go
)

// noteWall compares wall clocks. What the reply's way may have taken is in favour of the peer.
func (e *Engine) noteWall(p *peer, ahead, trip time.Duration) {
	sure := max(ahead.Abs()-trip/2, 0)
	p.mu.Lock()
	p.skew = ahead
	was := p.skewed
	switch {
	case sure > skewLimit:
		p.skewed = true
	case ahead.Abs() < skewOver:
		p.skewed = false
	}
	is := p.skewed
	p.mu.Unlock()
	if is != was && e.cfg.OnSkew != nil {
		e.cfg.OnSkew(Skew{Node: p.name, Ahead: ahead, Alarm: is})
	}
}
