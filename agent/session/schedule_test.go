// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// mistaken is a Timebase that is off about the clocks of others, or does not know them.
type mistaken struct {
	knowing
	off     atomic.Int64 // a time.Duration
	unknown atomic.Bool
}

func (m *mistaken) Local(o Origin, t OriginTime) (Instant, bool) {
	at, ok := m.knowing.Local(o, t)
	if o == m.Self() {
		return at, ok
	}
	return at.Add(time.Duration(m.off.Load())), ok && !m.unknown.Load()
}

// newMistaken runs the table of node a, whose idea of node b's clock the test may spoil.
func newMistaken(t *testing.T, change ...func(*TableConfig)) (h *harness, base *mistaken, b *driftClock) {
	t.Helper()
	clocks := map[string]*driftClock{"a": {start: time.Now(), boot: time.Hour}, "b": {start: time.Now(), boot: 3 * time.Hour}}
	base = &mistaken{knowing: knowing{"a", clocks}}
	h = newHarness(t, append([]func(*TableConfig){func(cfg *TableConfig) { cfg.Clock, cfg.Timebase = clocks["a"], base }}, change...)...)
	return h, base, clocks["b"]
}

// recordOf is of a session that was created a moment ago where clock is.
func recordOf(clock *driftClock, n byte, absolute, idle time.Duration) Record {
	return Record{ID: ID{n}, Key: Key{n}, Identity: Identity{Issuer: "https://idp", Subject: fmt.Sprint("user", n)}, Created: clock.Wall(),
		IdleTimeout: idle, Origin: Origin{Node: "b", Boot: 1}, Born: OriginTime(clock.Boot()), Deadline: OriginTime(clock.Boot().Add(absolute))}
}

func (h *harness) merge(t *testing.T, records ...Record) MergeResult {
	t.Helper()
	m, err := h.Merge(records)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A fault it keeps out: each look at a session allowed for drift anew, and a busy session is looked at often: a
// clock that lied, or stood still, moved its deadline by seconds a minute.
func TestClockThatIsOffLengthensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, base, clock := newMistaken(t)
		h.merge(t, recordOf(clock, 1, time.Hour, 10*time.Second))
		s, err := h.ByID(ID{1})
		if err != nil {
			t.Fatal(err)
		}
		first, began := s.Until, h.cfg.Clock.Boot()
		c := h.attach(t, s)
		for _, off := range []time.Duration{time.Hour, -time.Minute, time.Hour} { // back and forth
			base.off.Store(int64(off))
			for range 100 {
				time.Sleep(3 * time.Second)
				c.Activity.NoteClient(1)
				c.Activity.NoteUpstream(1)
			}
			if s, err = h.ByID(ID{1}); err != nil {
				t.Fatal(err)
			}
			passed := h.cfg.Clock.Boot().Sub(began)
			if later := s.Until.Sub(first); later > passed*maxDrift/1_000_000+timingError {
				t.Errorf("after %v with a clock that is off by %v the end is %v later", passed, off, later)
			}
			if off < 0 && s.Until.Sub(first) > -time.Minute {
				t.Errorf("an earlier end is not heeded: %v", s.Until.Sub(first))
			}
		}
	})
}

// A fault it keeps out: an earlier deadline was lost while its clock could not be compared, and in a reboot.
func TestEarlierDeadlineCountsAtOnce(t *testing.T) {
	for _, unknown := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h, base, clock := newMistaken(t)
			r := recordOf(clock, 1, time.Hour, 0)
			h.merge(t, r)
			base.unknown.Store(unknown)
			r.Deadline -= OriginTime(30 * time.Minute)
			h.merge(t, r)
			saved, _ := h.store.get(r.ID)
			if left := saved.Until.Sub(h.cfg.Clock.Boot()); left != 30*time.Minute {
				t.Errorf("clock unknown: %v: %v left", unknown, left)
			}
			if left := saved.Deadline.Sub(h.cfg.Clock.Wall()); left != 30*time.Minute {
				t.Errorf("clock unknown: %v: %v left by the wall clock, which counts after a reboot", unknown, left)
			}
			time.Sleep(30 * time.Minute)
			synctest.Wait()
			if e := h.endings(); len(e) != 1 || e[0].Session.Ended.Reason != ReasonAbsolute {
				t.Errorf("clock unknown: %v: %+v", unknown, e)
			}
		})
	}
}

// After a reboot the wall clock's word counts, and that of the clock that the deadline was told by if it is earlier.
func TestEarlierOfTwoClocksCountsAfterAReboot(t *testing.T) {
	for _, wall := range []time.Duration{20 * time.Minute, 40 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			h, base, clock := newMistaken(t)
			base.unknown.Store(true)
			r := recordOf(clock, 1, 30*time.Minute, 0)
			s := h.sessionOf(r, h.cfg.Clock.Boot().Add(wall), h.cfg.Clock.Boot())
			if err := h.Restore(s); err != nil {
				t.Fatal(err)
			}
			base.unknown.Store(false)
			time.Sleep(time.Hour)
			synctest.Wait()
			want := min(wall, 30*time.Minute)
			if e := h.endings(); len(e) != 1 || (e[0].Session.Until.Sub(s.Until)+wall-want).Abs() > time.Second {
				t.Errorf("%v by the wall clock, 30m by the other: %+v", wall, e)
			}
		})
	}
}

// A fault it keeps out: word of an end that came before its session's clock was known stayed in the digest past its
// deadline, where no other node had it any more: nodes never agreed again.
func TestEndOfUnknownClockLeavesTheDigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, base, clock := newMistaken(t)
		base.unknown.Store(true)
		before := h.Fold()
		r := recordOf(clock, 1, time.Minute, 0)
		r.Revoked = &End{Reason: ReasonKilled, At: clock.Wall()}
		h.merge(t, r)
		if h.Fold() == before {
			t.Fatal("the end is not in the digest")
		}
		time.Sleep(time.Second)
		base.unknown.Store(false)
		time.Sleep(time.Minute)
		if h.Fold() != before || len(h.Records([]ID{r.ID})) != 0 {
			t.Error("it is there past its deadline")
		}
	})
}
