// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// handClock is a clock that stands still.
type handClock struct {
	boot session.Instant
	wall time.Time
}

func (c *handClock) Boot() session.Instant   { return c.boot }
func (c *handClock) Coarse() session.Instant { return c.boot }
func (c *handClock) Wall() time.Time         { return c.wall }

var originC = session.Origin{Node: "c", Boot: 3}

func TestTimebaseMeasures(t *testing.T) {
	clock := &handClock{boot: session.Instant(time.Hour)}
	base := NewTimebase(originA, clock, nil)
	if at, ok := base.Local(originA, 77); !ok || at != 77 {
		t.Errorf("our own clock: %d, %v", at, ok)
	}
	if at, ok := base.Local(session.Origin{Boot: originA.Boot}, 77); !ok || at != 77 {
		t.Errorf("our own clock before the host had a name: %d, %v", at, ok)
	}
	if _, ok := base.Local(originB, 77); ok {
		t.Error("a clock is known that nobody compared")
	}
	// b's clock is 10 s behind, the way there takes 3 ms and back 1 ms.
	t1 := clock.boot
	t2 := t1.Add(-10*time.Second + 3*time.Millisecond)
	clock.boot = t1.Add(4 * time.Millisecond)
	base.sample(originB, t1, t2, t2, clock.boot)
	offset, bound, ok := base.Offset(originB)
	if !ok || (offset-10*time.Second).Abs() > bound || bound != 2*time.Millisecond {
		t.Errorf("offset %v +-%v, %v", offset, bound, ok)
	}
	remote, ok := base.Remote(originB, 50)
	if back, ok2 := base.Local(originB, remote); !ok || !ok2 || back != 50 {
		t.Errorf("there and back: %d", back)
	}
	clock.boot = clock.boot.Add(time.Hour)
	if _, bound, _ := base.Offset(originB); bound < 700*time.Millisecond {
		t.Errorf("after an hour without a sample the error is at most %v", bound)
	}
}

func TestTimebaseLearns(t *testing.T) {
	clock := &handClock{boot: session.Instant(time.Hour)}
	base := NewTimebase(originA, clock, nil)
	said := remoteClock{origin: originC, known: true, offset: 5 * time.Second, bound: time.Millisecond}
	base.learn(originB, said)
	if _, _, ok := base.Offset(originC); ok {
		t.Error("learned from a node whose own clock is not known")
	}
	t2 := clock.boot.Add(-10 * time.Second)
	base.sample(originB, clock.boot-session.Instant(time.Millisecond), t2, t2, clock.boot+session.Instant(time.Millisecond))
	base.learn(originB, said)
	offset, bound, ok := base.Offset(originC)
	if !ok || offset != 15*time.Second || bound != 2*time.Millisecond {
		t.Errorf("learned %v +-%v, %v", offset, bound, ok)
	}
	base.learn(originB, remoteClock{origin: originC, known: true, offset: 6 * time.Second, bound: time.Second})
	if worse, _, _ := base.Offset(originC); worse != offset {
		t.Errorf("worse knowledge won: %v", worse)
	}
	base.learn(originB, remoteClock{origin: originA, known: true, offset: time.Second, bound: 1})
	if own, _, _ := base.Offset(originA); own != 0 {
		t.Errorf("somebody knows our own clock better: %v", own)
	}
	base.sample(originC, clock.boot-session.Instant(time.Second), clock.boot, clock.boot, clock.boot+session.Instant(time.Second))
	if direct, bound, _ := base.Offset(originC); direct != 0 || bound != time.Second {
		t.Errorf("a measurement does not go before hearsay: %v +-%v", direct, bound)
	}
	if got := base.origins(); len(got) != 2 {
		t.Errorf("origins %v", got)
	}
}

func TestTimebaseIsBounded(t *testing.T) {
	base := NewTimebase(originA, &handClock{}, nil)
	for i := range 2 * maxOrigins {
		base.Adopt(session.Origin{Node: "x", Boot: uint64(i)}, 1, 1)
		base.sample(session.Origin{Node: "y", Boot: uint64(i)}, 1, 1, 1, 1)
	}
	if n := len(base.origins()); n > 2*maxOrigins {
		t.Errorf("%d clocks", n)
	}
	if n := len(base.estimator.(*samples).peers); n > maxSampled {
		t.Errorf("%d sampled", n)
	}
}

// What a peer makes up must not wrap around.
func TestTimebaseKeepsToItsRange(t *testing.T) {
	base := NewTimebase(originA, &handClock{}, nil)
	base.Adopt(originB, maxInstant-1, 1)
	for _, at := range []session.OriginTime{1<<63 - 1, -1 << 63, maxInstant} {
		got, _ := base.Local(originB, at)
		if (at > 0) != (got > 0) && at > 0 {
			t.Errorf("Local(%d) = %d", at, got)
		}
	}
}

func TestSamplesPreferTheSurest(t *testing.T) {
	s := newSamples()
	if _, _, ok := s.Offset("p", 1); ok {
		t.Error("an offset without a sample")
	}
	now := session.Instant(time.Hour)
	s.Sample("p", now, now, now, now-1, now) // arrived before it was sent
	if _, _, ok := s.Offset("p", now); ok {
		t.Error("an impossible exchange counts")
	}
	good := func(ahead, trip time.Duration, at session.Instant) {
		t2 := at.Add(trip/2 - ahead)
		s.Sample("p", at, t2, t2, at.Add(trip), at.Add(trip))
	}
	good(time.Second, time.Millisecond, now)
	for range 5 {
		good(2*time.Second, 100*time.Millisecond, now)
	}
	if offset, bound, _ := s.Offset("p", now); offset != time.Second || bound > time.Millisecond {
		t.Errorf("%v +-%v", offset, bound)
	}
	// The clock jumped, as after a pause of a virtual machine: soon newer samples count.
	now = now.Add(10 * time.Second)
	good(3*time.Second, 2*time.Millisecond, now)
	if offset, _, _ := s.Offset("p", now); offset != 3*time.Second {
		t.Errorf("after a jump: %v", offset)
	}
}
