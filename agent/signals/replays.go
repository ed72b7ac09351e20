// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"
)

// maxReplays is how many SETs of one transmitter are remembered, some 100 bytes each.
const maxReplays = 1 << 17

// errFull is returned where no more SETs can be remembered. They are not acted upon, so that none that was captured
// is either; who sent it has to try again.
var errFull = errors.New("too many events within their maximum age: try again later")

// errReused: the same jti was in another SET, so one of both is not what its issuer has said.
var errReused = errors.New("claim jti is that of another event")

type digest [sha256.Size / 2]byte

func digestOf(text string) digest {
	sum := sha256.Sum256([]byte(text))
	return digest(sum[:len(digest{})])
}

// replays sees to it that each SET of a transmitter is acted upon once. One that comes again is answered as it was the
// first time (RFC 8935, section 2): transmitters repeat what they have seen no answer to. It is safe for
// concurrent use. What it knows is this node's and lost with the process: a SET that is replayed
// to another node acts again.
type replays struct {
	max int
	now func() time.Time

	mu    sync.Mutex    // guards the fields below
	keep  time.Duration // at least as long as a SET is acceptable
	done  map[digest]entry
	order []digest // of done, the oldest first
	under map[digest]*flight
}

type entry struct {
	content digest
	until   time.Time
}

// flight is a SET that is being acted upon.
type flight struct {
	content digest
	landed  chan struct{} // closed when err is set
	err     error
}

func newReplays(keep time.Duration, now func() time.Time) *replays {
	return &replays{keep: keep, max: maxReplays, now: now, done: map[digest]entry{}, under: map[digest]*flight{}}
}

// keepFor changes for how long SETs are kept that come from now on.
func (r *replays) keepFor(keep time.Duration) *replays {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep = max(r.keep, keep) // they are forgotten in their order
	return r
}

// once calls act, unless a SET with this jti was acted upon before, and remembers it if that works. Who
// comes while act runs for the same waits for its outcome. It reports whether the SET was a repetition.
func (r *replays) once(ctx context.Context, jti string, content digest, act func() error) (again bool, err error) {
	name := digestOf(jti)
	r.mu.Lock()
	r.forgetLocked()
	if old, known := r.done[name]; known {
		r.mu.Unlock()
		return true, same(old.content, content)
	}
	if f := r.under[name]; f != nil {
		r.mu.Unlock()
		return true, f.wait(ctx, content)
	}
	if len(r.done)+len(r.under) >= r.max {
		r.mu.Unlock()
		return false, errFull
	}
	f := &flight{content: content, landed: make(chan struct{})}
	r.under[name] = f
	r.mu.Unlock()

	f.err = errors.New("did not come to an end") // if act panics
	defer func() { r.land(name, f) }()
	f.err = act()
	return false, f.err
}

func (r *replays) land(name digest, f *flight) {
	r.mu.Lock()
	delete(r.under, name)
	if f.err == nil {
		r.done[name] = entry{f.content, r.now().Add(r.keep)}
		r.order = append(r.order, name)
	}
	r.mu.Unlock()
	close(f.landed)
}

func (f *flight) wait(ctx context.Context, content digest) error {
	if err := same(f.content, content); err != nil {
		return err
	}
	select {
	case <-f.landed:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func same(a, b digest) error {
	if a != b {
		return errReused
	}
	return nil
}

// forgetLocked forgets what is too old to be accepted anyway.
func (r *replays) forgetLocked() {
	now, n := r.now(), 0
	for n < len(r.order) && now.After(r.done[r.order[n]].until) {
		delete(r.done, r.order[n])
		n++
	}
	if r.order = r.order[n:]; len(r.order) == 0 {
		r.order = nil // gives the memory back
	}
}
