// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

func TestSessionsAreKnownEverywhere(t *testing.T) {
	for _, nodes := range []int{3, 5} {
		simulate(t, func(t *testing.T) {
			s := newSim(t, nodes, nil)
			s.ready(t)
			v := s.create(t, "n0", 1, time.Hour, 0)
			took := eventually(t, time.Second, "created everywhere", s.lives(v))
			if took > 50*time.Millisecond {
				t.Errorf("a session was known everywhere after %v only", took)
			}
			// All nodes end it at the same instant, though their clocks read different things.
			ends := time.Now().Add(time.Hour - took)
			for name, n := range s.nodes {
				got, err := n.table.ByID(v.ID)
				if err != nil {
					t.Fatal(err)
				}
				if at := time.Now().Add(got.Until.Sub(n.clock.Boot())); at.Sub(ends).Abs() > 5*time.Millisecond {
					t.Errorf("%s ends it %v from when it was to end", name, at.Sub(ends))
				}
			}
			s.same(t, time.Second)
		})
	}
}

func TestIdleSessionsLiveByActivityElsewhere(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.ready(t)
		v := s.create(t, "n0", 1, time.Hour, time.Minute)
		eventually(t, time.Second, "created everywhere", s.lives(v))
		s.mu.Lock()
		s.loss = 20
		s.mu.Unlock()
		var last atomic.Int64
		n2 := s.nodes["n2"]
		c := session.NewConnection(v.ID)
		c.Activity.LastPayload = func(session.Leg) session.Instant { return session.Instant(last.Load()) }
		if _, _, err := n2.table.Attach(c); err != nil {
			t.Fatal(err)
		}
		for range 200 {
			last.Store(int64(n2.clock.Boot()))
			time.Sleep(7 * time.Second)
			if !s.lives(v)() {
				t.Fatal("an active session ended")
			}
		}
		quiet := time.Now()
		took := eventually(t, 2*time.Minute, "ended everywhere", s.ended(v))
		if took < 45*time.Second || took > time.Minute+2*time.Second {
			t.Errorf("ended %v after the last activity", time.Since(quiet))
		}
		s.same(t, 5*time.Second)
	})
}

func TestLateJoinerLearnsAll(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.ready(t)
		var all []session.Session
		for i := range 100 {
			all = append(all, s.create(t, s.names[i%3], byte(i+1), time.Hour, 0))
		}
		dead := session.End{Reason: session.ReasonKilled}
		if _, err := s.nodes["n0"].table.EndAll([]session.ID{all[0].ID, all[1].ID}, dead); err != nil {
			t.Fatal(err)
		}
		s.same(t, 5*time.Second)
		s.nodes["n1"].down() // the clock of a third of them is gone
		late := s.add("late", nil)
		late.start()
		if late.engine.Ready() {
			t.Error("a node accepts clients that knows nothing")
		}
		eventually(t, 2*time.Second, "ready", func() bool { return late.engine.Ready() })
		s.same(t, 3*time.Second)
		if n := late.table.Count(); n != 98 {
			t.Errorf("it knows %d sessions", n)
		}
		if !s.ended(all[0])() || !s.ended(all[1])() || !s.lives(all[2])() || !s.lives(all[4])() {
			t.Error("it knows other things of them than the rest")
		}
	})
}

func TestPartitionHeals(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 5, nil)
		s.ready(t)
		before := s.create(t, "n4", 1, time.Hour, 0)
		eventually(t, time.Second, "created everywhere", s.lives(before))
		s.parts(map[string]int{"n3": 1, "n4": 1})
		time.Sleep(5 * time.Minute)
		here, there := s.create(t, "n0", 2, time.Hour, 0), s.create(t, "n3", 3, time.Hour, 0)
		if _, err := s.nodes["n0"].table.EndAll([]session.ID{before.ID}, session.End{Reason: session.ReasonKilled}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if _, err := s.nodes["n4"].table.ByID(before.ID); err != nil {
			t.Fatal("the partition leaks: ", err)
		}
		s.parts(nil)
		took := eventually(t, time.Second, "the end is known everywhere", s.ended(before))
		s.same(t, time.Second-took)
		if !s.lives(here)() || !s.lives(there)() {
			t.Error("a session of one side does not live on the other")
		}
	})
}

// A node that restarts has its sessions, misses nothing, and brings nothing back.
func TestRestart(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.ready(t)
		kept, killed := s.create(t, "n0", 1, time.Hour, 0), s.create(t, "n1", 2, time.Hour, 0)
		for i := range byte(5) {
			s.create(t, "n2", 20+i, time.Hour, 0)
		}
		s.same(t, time.Second)
		n2 := s.nodes["n2"]
		n2.down()
		if _, err := s.nodes["n0"].table.EndAll([]session.ID{killed.ID}, session.End{Reason: session.ReasonKilled}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		n2.start()
		if n2.engine.Ready() {
			t.Error("it accepts clients before it knows what it missed")
		}
		eventually(t, time.Second, "ready", func() bool { return n2.engine.Ready() })
		if !s.ended(killed)() || !s.lives(kept)() {
			t.Error("ready without knowing what it missed")
		}
		s.same(t, time.Second)
		// It numbers what it tells from one again: that must not be taken for what it told before.
		for i := range byte(3) {
			v := s.create(t, "n2", 10+i, time.Hour, 0)
			if took := eventually(t, time.Second, "created everywhere", s.lives(v)); took > 50*time.Millisecond {
				t.Errorf("known everywhere after %v", took)
			}
		}
		// All at once.
		for _, n := range s.nodes {
			n.down()
		}
		for _, n := range s.nodes {
			n.start()
		}
		s.ready(t)
		s.same(t, time.Second)
		if !s.ended(killed)() || !s.lives(kept)() {
			t.Error("not the same after a restart of all")
		}
	})
}

// The clock of a node that is gone is kept, and told to those who never measured it.
func TestClocksOfNodesThatAreGone(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.ready(t)
		gone := s.nodes["n1"].engine.self
		time.Sleep(time.Second)
		s.nodes["n1"].down()
		time.Sleep(time.Hour)
		s.nodes["n2"].down()
		s.nodes["n2"].start()
		n2 := s.nodes["n2"]
		base := n2.engine.cfg.Timebase
		eventually(t, 5*time.Second, "the clock is told", func() bool { _, _, ok := base.Offset(gone); return ok })
		offset, bound, _ := base.Offset(gone)
		if really := n2.clock.Boot().Sub(s.nodes["n1"].clock.Boot()); (offset - really).Abs() > bound {
			t.Errorf("%v +-%v, really %v", offset, bound, really)
		}
	})
}

func TestWatermarkEndsEverywhereOnce(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 5, nil)
		s.ready(t)
		v := s.create(t, "n1", 1, time.Hour, 0)
		other := s.create(t, "n1", 2, time.Hour, 0)
		s.same(t, time.Second)
		time.Sleep(time.Second)
		n0 := s.nodes["n0"]
		endings, err := n0.engine.Raise(session.Watermark{Subject: "user1", Origin: n0.engine.self, Before: session.OriginTime(n0.clock.Boot()),
			End: session.End{Reason: session.ReasonProvider, By: "https://idp"}})
		if err != nil || len(endings) != 1 {
			t.Fatal(endings, err)
		}
		eventually(t, time.Second, "ended everywhere", s.ended(v))
		s.same(t, time.Second)
		if !s.lives(other)() {
			t.Error("somebody else's session ended, too")
		}
		// One that was away learns of it, too.
		s.parts(map[string]int{"n4": 1})
		w := session.Watermark{Subject: "user2", Origin: n0.engine.self, Before: session.OriginTime(n0.clock.Boot()), End: session.End{Reason: session.ReasonProvider}}
		if _, err := n0.engine.Raise(w); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		s.parts(nil)
		eventually(t, time.Second, "ended everywhere", s.ended(other))
		time.Sleep(5 * time.Second)
		for name, n := range s.nodes {
			if marks := n.table.Watermarks(); len(marks) != 2 {
				t.Errorf("%s has watermarks %v", name, marks)
			}
		}
		again := s.create(t, "n2", 3, time.Hour, 0)
		eventually(t, time.Second, "a sign-in after it", s.lives(again))
	})
}

// Each node ends what a watermark covers by itself: if each told all others of each session, a cluster of
// fifty would send 2,450 messages a session.
func TestWatermarkSpeaksForItsSessions(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.ready(t)
		for i := range 100 {
			v := session.Session{Key: session.Key{byte(i + 1)}, Identity: session.Identity{Subject: "u"}}
			if _, err := s.nodes["n0"].table.Create(v, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		s.same(t, time.Second)
		time.Sleep(time.Second)
		n0 := s.nodes["n0"]
		s.mu.Lock()
		s.deaf["n2"] = true
		s.mu.Unlock()
		w := session.Watermark{Subject: "u", Origin: n0.engine.self, Before: session.OriginTime(n0.clock.Boot()), End: session.End{Reason: session.ReasonProvider}}
		if _, err := n0.engine.Raise(w); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := s.nodes["n1"].table.Count(); n != 0 {
			t.Errorf("%d sessions live", n)
		}
		for _, name := range []string{"n0", "n1"} {
			if n := s.nodes[name].engine.peer("n2").outbox.length(); n > 1 {
				t.Errorf("%s has %d things to tell", name, n)
			}
		}
	})
}

// A record whose clock is not known is not acknowledged: it would count as told and be lost.
func TestUnknownClockIsNotAcknowledged(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.ready(t)
		n0 := s.nodes["n0"]
		stranger := session.Origin{Node: "gone", Boot: 99}
		r := session.Record{ID: session.ID{1}, Key: session.Key{1}, Identity: session.Identity{Subject: "u"}, Origin: stranger, Born: 1, Deadline: session.OriginTime(time.Hour), Created: time.Now()}
		p := n0.engine.peer("n1")
		n0.engine.Changed(r)
		time.Sleep(time.Second)
		if p.outbox.length() != 1 {
			t.Error("it was acknowledged")
		}
		// The other has the session, but not the clock: activity that moves no lease would end it there.
		n1 := s.nodes["n1"]
		known, adopted := r, n1.engine.cfg.Timebase
		known.ID, known.Key, known.IdleTimeout = session.ID{2}, session.Key{2}, time.Minute
		adopted.Adopt(stranger, time.Duration(n1.clock.Boot()), 1)
		if m, err := n1.table.Merge([]session.Record{known}); err != nil || len(m.News) != 1 {
			t.Fatal(m, err)
		}
		adopted.mu.Lock()
		delete(adopted.learned, stranger)
		adopted.mu.Unlock()
		known.Active = 5
		n0.engine.Changed(known)
		time.Sleep(time.Second)
		if p.outbox.length() != 2 {
			t.Error("activity was acknowledged")
		}
		adopted.Adopt(stranger, time.Duration(n1.clock.Boot()), 1)
		eventually(t, time.Second, "acknowledged once the clock is known", func() bool { return p.outbox.length() == 0 })
		r.ID, r.Key = session.ID{3}, session.Key{3}
		r.Origin.Boot++
		r.Revoked = &session.End{Reason: session.ReasonKilled, At: time.Now()}
		n0.engine.Changed(r)
		eventually(t, time.Second, "its end is acknowledged", func() bool { return p.outbox.length() == 0 })
		if list := n1.table.Records([]session.ID{r.ID}); len(list) != 1 || list[0].Revoked == nil {
			t.Errorf("its end was not applied: %+v", list)
		}
	})
}

func TestEverythingStopsWithRun(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.ready(t)
		n0 := s.nodes["n0"]
		s.mu.Lock()
		s.deaf["n1"] = true
		s.mu.Unlock()
		v := s.create(t, "n0", 1, time.Hour, 0)
		n0.down()
		// Told after its end, it keeps what it is told and does nothing.
		n0.engine.Changed(session.Record{ID: v.ID, Key: v.Key, Origin: v.Origin, Deadline: v.Ends})
		n0.engine.Receive("n2", sampleState(t))
		if _, err := n0.engine.Serve("n2", encodeCarrier(kindPush, carrier{})); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
