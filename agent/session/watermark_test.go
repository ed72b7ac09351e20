// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A fault it keeps out: once the node was gone on which somebody had been killed, that person could not sign in
// any more where its clock was not known, until the file was deleted.
func TestWatermarkOfAClockThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, clock := newMistaken(t)
		before, after := recordOf(clock, 2, time.Hour, 0), recordOf(clock, 3, time.Hour, 0)
		time.Sleep(time.Second)
		h.RestoreWatermark(Watermark{Origin: Origin{Node: "gone", Boot: 9}, Before: 1 << 60, End: End{Reason: ReasonKilled}})
		h.merge(t, before)
		if _, err := h.ByID(before.ID); ReasonOf(err) != ReasonKilled {
			t.Errorf("who signed in before it was heard of, perhaps before it: %v", err)
		}
		who := Session{Key: Key{1}, Identity: Identity{Subject: "user"}}
		if _, err := h.Create(who, time.Hour); !errors.Is(err, ErrWatermark) {
			t.Errorf("at the same instant: %v", err)
		}
		time.Sleep(time.Second)
		if _, err := h.Create(who, time.Hour); err != nil {
			t.Errorf("who signs in later: %v", err)
		}
		after.Born = OriginTime(clock.Boot())
		h.merge(t, after)
		if _, err := h.ByID(after.ID); err != nil {
			t.Errorf("who signs in later, elsewhere: %v", err)
		}
	})
}

// A fault it keeps out: a node that is in no cluster read a watermark of its earlier boot as one of this boot.
func TestWatermarkOfAnEarlierBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		now := h.clock.Boot()
		h.RestoreWatermark(Watermark{Before: OriginTime(now.Add(100 * time.Hour)), Learned: now.Add(-time.Minute), End: End{Reason: ReasonKilled}})
		h.create(t, 1, time.Hour, 0)
	})
}

// What a provider's own session began ends with it, also what begins later, on every node, and nothing else does.
func TestWatermarkOfAProvidersSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, 0)
		make := func(i int, key byte, issuer, sid string) (Session, error) {
			return c.tables[i].Create(Session{Key: Key{key}, Identity: Identity{Issuer: issuer, Subject: "user"}, SID: sid}, time.Hour)
		}
		var all []Session
		for n, of := range [][2]string{{"https://idp", "one"}, {"https://idp", "two"}, {"https://other", "one"}, {"https://idp", ""}} {
			s, err := make(0, byte(n+1), of[0], of[1])
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
		c.settle()
		w := Watermark{Issuer: "https://idp", SID: "one", Origin: c.tables[0].self, Before: OriginTime(c.tables[0].clock.Boot()), Keep: time.Hour,
			End: End{Reason: ReasonProvider, At: time.Now()}}
		for _, table := range c.tables {
			if news, _, err := table.Raise(w); err != nil || !news {
				t.Fatal(news, err)
			}
			for n, s := range all {
				if _, err := table.ByID(s.ID); (ReasonOf(err) == ReasonProvider) != (n == 0) {
					t.Errorf("session %d: %v", n, err)
				}
			}
		}
		time.Sleep(time.Minute)
		if _, err := make(1, 9, "https://idp", "one"); !errors.Is(err, ErrWatermark) {
			t.Errorf("begun by what is over: %v", err)
		}
		for _, bad := range []Watermark{{SID: "one"}, {Issuer: "i", SID: "one", Subject: "s"}, {Issuer: "i"}, {Issuer: "i", SID: UnnamedSID}} {
			bad.Before, bad.End = 1, w.End
			if _, _, err := c.tables[0].Raise(bad); err == nil {
				t.Errorf("%+v was raised", bad)
			}
		}
	})
}

// What a provider has no name for ends, of one user, if it was there before; what has a name, and what comes later, does not.
func TestWatermarkOfWhatHasNoName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, 0)
		make := func(key byte, issuer, subject, sid string) Session {
			s, err := c.tables[0].Create(Session{Key: Key{key}, Identity: Identity{Issuer: issuer, Subject: subject}, SID: sid}, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		all := []Session{make(1, "https://idp", "user", ""), make(2, "https://idp", "user", "one"), make(3, "https://idp", "other", ""), make(4, "https://other", "user", "")}
		c.settle()
		time.Sleep(time.Second)
		w := Watermark{Issuer: "https://idp", Subject: "user", SID: UnnamedSID, Origin: c.tables[0].self, Before: OriginTime(c.tables[0].clock.Boot()),
			End: End{Reason: ReasonProvider, At: time.Now()}}
		for i, table := range c.tables {
			if news, _, err := table.Raise(w); err != nil || !news {
				t.Fatal(news, err)
			}
			for n, s := range all {
				if _, err := table.ByID(s.ID); (ReasonOf(err) == ReasonProvider) != (n == 0) {
					t.Errorf("node %d, session %d: %v", i, n, err)
				}
			}
		}
		time.Sleep(time.Second)
		make(5, "https://idp", "user", "")
	})
}

// Watermarks are kept no longer than they are of use; a node that still has one does not bring it back.
func TestWatermarksAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, 0)
		w := Watermark{Issuer: "https://idp", Subject: "user", Origin: c.tables[0].self, Before: OriginTime(c.tables[0].clock.Boot()), Keep: time.Hour,
			End: End{Reason: ReasonProvider, At: time.Now()}}
		gone := w
		gone.Origin = Origin{Node: "gone", Boot: 7}
		for _, table := range c.tables {
			for _, w := range []Watermark{w, gone} {
				if news, _, err := table.Raise(w); err != nil || !news {
					t.Fatal(news, err)
				}
			}
		}
		time.Sleep(59 * time.Minute)
		for i, table := range c.tables {
			if n := len(table.Watermarks()); n != 2 && i == 1 { // the wall clock of node 0 is 90 minutes behind
				t.Errorf("node %d: %d watermarks after 59 minutes", i, n)
			}
		}
		time.Sleep(3 * time.Hour)
		for i, table := range c.tables {
			if list := table.Watermarks(); len(list) != 0 || table.marks.count != 0 || len(table.marks.byName) != 0 {
				t.Errorf("node %d still has %+v", i, list)
			}
			for _, w := range []Watermark{w, gone} {
				if news, _, err := table.Raise(w); err != nil || news {
					t.Errorf("node %d learns one anew: %v, %v", i, news, err)
				}
			}
		}
	})
}

// Who was authenticated before everybody was signed out has no session after it.
func TestSessionOfAnEarlierAuthentication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		authenticated := OriginTime(h.clock.Boot())
		time.Sleep(time.Second)
		w := Watermark{Subject: "user", Before: OriginTime(h.clock.Boot()), End: End{Reason: ReasonProvider, At: time.Now()}}
		if _, _, err := h.Raise(w); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		s := Session{Key: Key{1}, Identity: Identity{Subject: "user"}, Born: authenticated}
		if _, err := h.Create(s, time.Hour); !errors.Is(err, ErrWatermark) {
			t.Errorf("authenticated before: %v", err)
		}
		s.Born = OriginTime(h.clock.Boot().Add(-time.Millisecond))
		made, err := h.Create(s, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if left := made.Until.Sub(h.clock.Boot()); left != time.Hour-time.Millisecond {
			t.Errorf("its time runs from its authentication: %v are left", left)
		}
	})
}

// Of a storm of watermarks each ends whom it is about, and nobody else's sessions, without a look at all sessions for each.
func TestStormOfWatermarks(t *testing.T) {
	const users, each = 500, 4
	h := newHarness(t)
	for i := range users * each {
		key := Key{byte(i), byte(i >> 8), 1}
		if _, err := h.Create(Session{Key: key, Identity: Identity{Issuer: "https://idp", Subject: fmt.Sprint(i / each)}, SID: fmt.Sprint(i)}, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	var storm sync.WaitGroup
	for i := range users {
		storm.Go(func() { // half by subject, half by one session of theirs
			w := Watermark{Issuer: "https://idp", Subject: fmt.Sprint(i), Before: OriginTime(h.clock.Boot()), End: End{Reason: ReasonProvider, Message: fmt.Sprint(i), At: time.Now()}}
			want := each
			if i%2 == 1 {
				w.Subject, w.SID, want = "", fmt.Sprint(i*each), 1
			}
			_, endings, err := h.Raise(w)
			if err != nil || len(endings) != want {
				t.Errorf("watermark %d: %d ended, %v", i, len(endings), err)
			}
			for _, e := range endings {
				if e.Session.Identity.Subject != fmt.Sprint(i) || e.Session.Ended.Message != fmt.Sprint(i) {
					t.Errorf("watermark %d ended a session of %s", i, e.Session.Identity.Subject)
				}
			}
		})
	}
	storm.Wait()
	if n := h.Count(); n != users/2*(each-1) {
		t.Errorf("%d live", n)
	}
}

func BenchmarkStormOfWatermarks(b *testing.B) {
	const sessions, storm = 100_000, 1000
	table, err := NewTable(TableConfig{Clock: &driftClock{start: time.Now()}})
	if err != nil {
		b.Fatal(err)
	}
	for i := range sessions {
		s := Session{Key: Key{byte(i), byte(i >> 8), byte(i >> 16), 1}, Identity: Identity{Issuer: "https://idp", Subject: fmt.Sprint(i / 10)}}
		if _, err := table.Create(s, time.Hour); err != nil {
			b.Fatal(err)
		}
	}
	round := 0
	for b.Loop() {
		round++
		var all sync.WaitGroup
		for i := range storm {
			all.Go(func() {
				w := Watermark{Issuer: "https://idp", Subject: fmt.Sprint(round*storm + i), Before: OriginTime(table.cfg.Clock.Boot()), End: End{Reason: ReasonProvider, At: time.Now()}}
				if _, _, err := table.Raise(w); err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*storm), "us/logout")
}

// A fault it keeps out: a machine's token from before this host's boot made a session that no other node took.
func TestSessionOfAnAuthenticationBeforeTheBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, 0)
		born := OriginTime(c.tables[0].clock.Boot().Add(-2 * time.Hour)) // it has been up for one
		if born >= 0 {
			t.Fatalf("born at %d", born)
		}
		made, err := c.tables[0].Create(Session{Key: Key{1}, Identity: Identity{Issuer: "https://idp", Subject: "user"}, Born: born}, 5*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		c.settle()
		got, err := c.tables[1].ByID(made.ID)
		if err != nil || got.Born != born {
			t.Errorf("on another node: born at %d, %v", got.Born, err)
		}
	})
}
