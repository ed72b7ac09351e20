// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"strconv"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Estimator estimates how the clock of a peer compares to ours, from exchanges of readings. Implementations
// are safe for concurrent use and answer at once.
type Estimator interface {
	// Sample adds an exchange: we asked at t1 and had the reply at t4 by our clock; the peer was asked
	// at t2 and replied at t3 by its own.
	Sample(peer string, t1, t2, t3, t4, now session.Instant)
	// Offset returns what our clock reads when the peer's reads zero, and how far that may be off.
	Offset(peer string, now session.Instant) (offset, bound time.Duration, ok bool)
}

// Timebase is a session.Timebase. What it knows of another clock was measured in exchanges with it, or else
// learned from a node that knows it: then the errors add up. Measurements go before hearsay, and neither is
// forgotten when the clock's node is gone.
type Timebase struct {
	self      session.Origin
	clock     session.Clock
	estimator Estimator

	mu       sync.RWMutex
	measured map[session.Origin]string // to its name at the estimator
	learned  map[session.Origin]hearsay
}

type hearsay struct {
	offset, bound time.Duration
	at            session.Instant
}

var _ session.Timebase = (*Timebase)(nil)

// NewTimebase returns a Timebase of a host that has compared its clock with no other yet. Without an
// estimator it uses its own.
func NewTimebase(self session.Origin, clock session.Clock, estimator Estimator) *Timebase {
	if estimator == nil {
		estimator = newSamples()
	}
	return &Timebase{self: self, clock: clock, estimator: estimator,
		measured: map[session.Origin]string{}, learned: map[session.Origin]hearsay{}}
}

// Self implements session.Timebase.
func (t *Timebase) Self() session.Origin { return t.self }

// Local implements session.Timebase.
func (t *Timebase) Local(o session.Origin, at session.OriginTime) (session.Instant, bool) {
	offset, _, ok := t.Offset(o)
	if !ok {
		return 0, false
	}
	return session.Instant(shift(int64(at), int64(offset))), true
}

// Remote implements session.Timebase.
func (t *Timebase) Remote(o session.Origin, at session.Instant) (session.OriginTime, bool) {
	offset, _, ok := t.Offset(o)
	if !ok {
		return 0, false
	}
	return session.OriginTime(shift(int64(at), -int64(offset))), true
}

// shift adds an offset to a reading; what a peer made up stays within range.
func shift(at, offset int64) int64 {
	return min(max(at, -maxInstant), maxInstant) + offset
}

// Offset returns what the clock of this host reads when o's clock reads zero, and how far that may be off;
// false if nothing is known of o.
func (t *Timebase) Offset(o session.Origin) (offset, bound time.Duration, ok bool) {
	if t.isSelf(o) {
		return 0, 0, true
	}
	now := t.clock.Boot()
	t.mu.RLock()
	defer t.mu.RUnlock()
	if name := t.measured[o]; name != "" {
		if offset, bound, ok = t.estimator.Offset(name, now); ok {
			return offset, bound, true
		}
	}
	h, ok := t.learned[o]
	return h.offset, h.bound + drift(now.Sub(h.at)), ok
}

// isSelf includes this boot from before the host had a name in a cluster.
func (t *Timebase) isSelf(o session.Origin) bool {
	return o == t.self || o.Node == "" && o.Boot == t.self.Boot
}

// drift is how far two clocks may come apart: 100 ppm each, the worst that adjtimex allows is five times that.
func drift(age time.Duration) time.Duration { return max(age, 0) / 5000 }

// sample adds an exchange with o.
func (t *Timebase) sample(o session.Origin, t1, t2, t3, t4 session.Instant) {
	if t.isSelf(o) {
		return
	}
	name := o.Node + "/" + strconv.FormatUint(o.Boot, 16)
	t.estimator.Sample(name, t1, t2, t3, t4, t.clock.Boot())
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.measured[o] == "" {
		makeRoom(t.measured)
		t.measured[o] = name
	}
}

// learn takes what a sender says of another clock, if it is better than what was said before.
func (t *Timebase) learn(sender session.Origin, c remoteClock) {
	toSender, bound, ok := t.Offset(sender)
	if !c.known || !ok || t.isSelf(c.origin) {
		return
	}
	t.Adopt(c.origin, c.offset+toSender, c.bound+bound)
}

// Adopt notes how o's clock compares to this host's, as Offset returns it, from a source other than the
// cluster: what this host knew before the process restarted. Better knowledge is kept.
func (t *Timebase) Adopt(o session.Origin, offset, bound time.Duration) {
	if t.isSelf(o) || offset <= -maxInstant || offset >= maxInstant {
		return
	}
	now := t.clock.Boot()
	t.mu.Lock()
	defer t.mu.Unlock()
	old, ok := t.learned[o]
	if ok && old.bound+drift(now.Sub(old.at)) < bound {
		return
	}
	if !ok {
		makeRoom(t.learned)
	}
	t.learned[o] = hearsay{offset, bound, now}
}

// makeRoom keeps a map of clocks bounded: a cluster in which so many nodes booted while one session lived is
// none that anyone runs, so that any may go.
func makeRoom[V any](clocks map[session.Origin]V) {
	for o := range clocks {
		if len(clocks) < maxOrigins {
			return
		}
		delete(clocks, o)
	}
}

// remote is what a message's dictionary says of a clock.
func (t *Timebase) remote(o session.Origin) remoteClock {
	offset, bound, ok := t.Offset(o)
	return remoteClock{origin: o, known: ok, offset: offset, bound: bound}
}

// origins returns the clocks that are known, without our own.
func (t *Timebase) origins() []session.Origin {
	t.mu.RLock()
	defer t.mu.RUnlock()
	list := make([]session.Origin, 0, len(t.measured)+len(t.learned))
	for o := range t.measured {
		list = append(list, o)
	}
	for o := range t.learned {
		if t.measured[o] == "" {
			list = append(list, o)
		}
	}
	return list
}
