// SPDX-License-Identifier: Apache-2.0

// Package clock estimates how the clocks of other nodes compare to this one's, from exchanges of readings, and
// says whom to exchange readings with next.
//
// It owns arithmetic and what it remembers of peers. It reads no clock, sends nothing, starts no goroutine
// and imports nothing of ours: readings are any integer type that counts nanoseconds. There is deliberately
// no time of the cluster here: every pair of clocks is compared by itself, so that one that lies misleads
// about itself only.
package clock

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Reading is a reading of a clock, in nanoseconds. Only differences of readings of one clock mean anything.
type Reading interface{ ~int64 }

const (
	maxPeers   = 4096
	maxReading = 1 << 60 // nanoseconds: 36 years. Sums of four stay within an int64, whatever a peer makes up

	// driftDivisor makes 200 ppm: how far two clocks may come apart.
	driftDivisor = 5000
)

// Estimator keeps for each peer the exchange that says most about the peer's clock. It is safe for
// concurrent use and never blocks for long.
//
// The error of an exchange is at most half its round trip, plus what the clocks drifted since. That sum
// grows at the same rate for all exchanges: one that is worse than another now stays so for ever. Hence
// the history of a peer that has any use is one exchange long.
type Estimator[T Reading] struct {
	mu    sync.Mutex
	peers map[string]best[T]
}

// best is the exchange with the least error of those with a peer.
type best[T Reading] struct {
	boot   uint64 // of the peer's clock, zero: never told
	known  bool   // an exchange there was
	offset time.Duration
	trip   time.Duration
	began  T
}

// NewEstimator returns an Estimator that knows nobody.
func NewEstimator[T Reading]() *Estimator[T] {
	return &Estimator[T]{peers: map[string]best[T]{}}
}

// Estimate is what is known of the clock of a peer.
type Estimate struct {
	Peer      string
	Offset    time.Duration // what our clock reads when the peer's reads zero
	Bound     time.Duration // Offset is not further off than that
	RoundTrip time.Duration // of the exchange that says so, without the peer's own time
	Age       time.Duration // of that exchange
}

// Sample adds an exchange: we asked at t1 and had the reply at t4 by our clock; the peer was asked at t2 and
// replied at t3 by its own. An exchange that cannot have been is ignored.
//
// One that contradicts an earlier one (their errors do not overlap) takes its place: the clock is another
// one, or runs as no clock should.
func (e *Estimator[T]) Sample(peer string, t1, t2, t3, t4, now T) {
	for _, t := range [...]T{t1, t2, t3, t4, now} {
		if t < 0 || t > maxReading {
			return
		}
	}
	trip := (t4 - t1) - (t3 - t2)
	if t4 < t1 || t3 < t2 || now < t4 || trip < 0 {
		return
	}
	// With rho for the drift, x and y for the two ways and n for now, the estimate is off by (y-x)/2, at most
	// trip/2 and half of what drifted between t2 and t3, and by what drifted from there on until n. Added
	// up, that is at most trip/2 + rho*(n-t1): age counts from when the exchange began.
	s := best[T]{known: true, offset: time.Duration((t1-t2)+(t4-t3)) / 2, trip: time.Duration(trip), began: t1}
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.peers[peer]
	s.boot = old.boot
	better := s.bound(now) <= old.bound(now)
	if !s.agrees(old, now) {
		better = s.began >= old.began
	}
	if better || !old.known {
		e.makeRoomLocked(peer)
		e.peers[peer] = s
	}
}

// bound is how far the offset may be off. A reading in the past of the exchange counts as the exchange's own.
func (b best[T]) bound(now T) time.Duration {
	return b.trip/2 + b.age(now)/driftDivisor + 1 // what division cut off
}

func (b best[T]) age(now T) time.Duration { return max(time.Duration(now-b.began), 0) }

func (b best[T]) agrees(other best[T], now T) bool {
	return (b.offset - other.offset).Abs() <= b.bound(now)+other.bound(now)
}

// makeRoomLocked keeps the number of peers bounded. Any may go: no real cluster has so many.
func (e *Estimator[T]) makeRoomLocked(peer string) {
	if _, ok := e.peers[peer]; ok || len(e.peers) < maxPeers {
		return
	}
	for name := range e.peers {
		delete(e.peers, name)
		return
	}
}

// Offset returns what our clock reads when the peer's reads zero, and how far that may be off at the most;
// false if there was no exchange with the peer.
func (e *Estimator[T]) Offset(peer string, now T) (offset, bound time.Duration, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.peers[peer]
	if !b.known {
		return 0, 0, false
	}
	return b.offset, b.bound(now), true
}

// Booted tells which boot a peer's clock counts from. If it is another one than before, what was known of the
// peer's clock is forgotten. Who puts the boot into the peer's name has no need of it.
func (e *Estimator[T]) Booted(peer string, boot uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if b := e.peers[peer]; b.boot != boot {
		e.makeRoomLocked(peer)
		if b.boot != 0 { // the boot of the exchanges so far was another
			b = best[T]{}
		}
		b.boot = boot
		e.peers[peer] = b
	}
}

// Forget drops what is known of a peer.
func (e *Estimator[T]) Forget(peer string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.peers, peer)
}

// All returns what is known of all peers, by name.
func (e *Estimator[T]) All(now T) []Estimate {
	e.mu.Lock()
	list := make([]Estimate, 0, len(e.peers))
	for name, b := range e.peers {
		if b.known {
			list = append(list, Estimate{Peer: name, Offset: b.offset, Bound: b.bound(now), RoundTrip: b.trip, Age: b.age(now)})
		}
	}
	e.mu.Unlock()
	slices.SortFunc(list, func(a, b Estimate) int { return cmp.Compare(a.Peer, b.Peer) })
	return list
}

// Worst returns the estimate that may be off most; false if there is none.
func (e *Estimator[T]) Worst(now T) (Estimate, bool) {
	all := e.All(now)
	if len(all) == 0 {
		return Estimate{}, false
	}
	return slices.MaxFunc(all, func(a, b Estimate) int { return cmp.Compare(a.Bound, b.Bound) }), true
}
