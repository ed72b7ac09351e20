// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"sync"

	"github.com/curfew-proxy/curfew/agent/api"
)

// Events keeps the last events of the agent in a ring and lets any number of readers follow it.
// A publisher never waits: a reader owns nothing but a position in the ring, and one that falls
// behind by more than the ring holds is told how many events it has lost.
// Safe for concurrent use.
type Events struct {
	mu   sync.Mutex
	ring []api.Event   // the event with sequence number s is in ring[s % len]
	last uint64        // sequence number of the newest event; 0 before the first
	more chan struct{} // closed and replaced when an event arrives and someone waits; else nil
}

// NewEvents returns a ring that holds size events; at least one.
func NewEvents(size int) *Events {
	return &Events{ring: make([]api.Event, max(size, 1))}
}

// Publish gives e its sequence number and appends it. It does not block.
func (e *Events) Publish(ev api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	ev.Seq = e.last
	e.ring[e.last%uint64(len(e.ring))] = ev
	if e.more != nil {
		close(e.more)
		e.more = nil
	}
}

// oldestLocked is the sequence number of the oldest event held (last+1 if none is).
func (e *Events) oldestLocked() uint64 {
	if n := uint64(len(e.ring)); e.last > n {
		return e.last - n + 1
	}
	return 1
}

// Reader is one follower's position. Not for concurrent use.
type Reader struct {
	events *Events
	next   uint64 // the sequence number to read next
}

// ReadFrom returns a reader of the events after sequence number after. With 0 it begins at the
// oldest that the ring still holds, without counting what came before as lost.
func (e *Events) ReadFrom(after uint64) *Reader {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := &Reader{events: e, next: after + 1}
	if after == 0 {
		r.next = e.oldestLocked()
	} else if r.next > e.last+1 { // a number from an earlier run of the agent
		r.next = e.oldestLocked()
	}
	return r
}

// readBatch bounds how many events are copied under the lock.
const readBatch = 256

// Available returns the events that can be read now, oldest first, and how many were lost
// before them. It does not block; both are zero when the reader is up to date.
func (r *Reader) Available() (evs []api.Event, lost uint64) {
	e := r.events
	e.mu.Lock()
	defer e.mu.Unlock()
	return r.takeLocked()
}

func (r *Reader) takeLocked() (evs []api.Event, lost uint64) {
	e := r.events
	if oldest := e.oldestLocked(); r.next < oldest {
		lost = oldest - r.next
		r.next = oldest
	}
	n := min(e.last+1-r.next, readBatch)
	for range n {
		evs = append(evs, e.ring[r.next%uint64(len(e.ring))])
		r.next++
	}
	return evs, lost
}

// Next is Available, but waits until there is something or ctx is done; then it returns ctx's
// error.
func (r *Reader) Next(ctx context.Context) (evs []api.Event, lost uint64, err error) {
	e := r.events
	for {
		e.mu.Lock()
		evs, lost = r.takeLocked()
		if len(evs) > 0 || lost > 0 {
			e.mu.Unlock()
			return evs, lost, nil
		}
		if e.more == nil {
			e.more = make(chan struct{})
		}
		more := e.more
		e.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}
