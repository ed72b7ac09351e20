// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// peer is another node as this one knows it.
type peer struct {
	name   string
	outbox *outbox

	mu    sync.Mutex
	state MemberState
	since session.Instant // of state

	// What it tells of itself.
	boot, epoch uint64
	sessions    int
	connections int
	ready       bool
	heard       session.Instant // when it last answered a clock exchange

	// Its clock: see exchange.go.
	asked  [8]session.Instant // when exchanges were begun that have no answer yet
	probed session.Instant    // when the last was begun
	burst  int                // exchanges that are to follow each other quickly
	trip   time.Duration
	skew   time.Duration // of its wall clock to ours
	skewed bool

	received window // what of it was received

	appeared bool            // anti-entropy with it is due at once
	patient  session.Instant // but not before: it was busy, or something was left
	failing  bool            // the last round failed: see retryLoop
	synced   session.Instant // when a round with it was completed last
}

func newPeer(name string) *peer { return &peer{name: name, outbox: newOutbox(), state: Absent} }

// roundTrip is zero as long as it is not known.
func (p *peer) roundTrip() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trip
}

func (p *peer) is() MemberState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// appearLocked makes a round due at once, whatever became of earlier ones.
func (p *peer) appearLocked() { p.appeared, p.failing, p.patient = true, false, 0 }

func (p *peer) roundCompleted(now session.Instant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.synced, p.failing = now, false
}

// roundAgain makes the next round due at an instant.
func (p *peer) roundAgain(at session.Instant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.appeared, p.patient, p.failing = true, at, false
}

func (p *peer) roundFailed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.appeared, p.failing = true, !p.appeared // one that appeared meanwhile starts afresh
}

func (p *peer) isFailing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failing
}

// origin is the clock of the peer, as far as it has been heard of.
func (p *peer) origin() (session.Origin, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return session.Origin{Node: p.name, Boot: p.boot}, p.boot != 0
}

// introduce notes which run of the peer's engine speaks, and in which boot of its host. What was received from
// an earlier run has other numbers. It reports whether that is news.
func (p *peer) introduce(boot, epoch uint64) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if boot == p.boot && epoch == p.epoch {
		return false
	}
	if p.epoch != 0 && p.state.reachable() {
		p.appearLocked()
	}
	p.boot, p.epoch = boot, epoch
	p.burst = newPeerBurst
	p.received = window{}
	return true
}

// window remembers which items of a peer were received, so that one that comes again is not applied again.
// That saves work; that it does no harm either is what merging is for.
type window struct {
	pending map[uint64]bool
	done    map[uint64]bool
	order   []uint64 // of done
}

const windowSize = 8192

// begin reports whether an item has to be applied, and whether it was before.
func (w *window) begin(number uint64) (apply, done bool) {
	if w.done[number] {
		return false, true
	}
	if w.pending[number] {
		return false, false
	}
	if w.pending == nil {
		w.pending, w.done = map[uint64]bool{}, map[uint64]bool{}
	}
	w.pending[number] = true
	return true, false
}

// end notes what became of it.
func (w *window) end(number uint64, done bool) {
	delete(w.pending, number)
	if !done || w.done[number] || w.done == nil {
		return
	}
	w.done[number] = true
	if w.order = append(w.order, number); len(w.order) > windowSize {
		delete(w.done, w.order[0])
		w.order = w.order[1:]
	}
}
