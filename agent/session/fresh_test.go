// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

const idp = "https://idp"

// freshMark asks alice, or who else is meant, to have been authenticated at an instant or later.
func freshMark(table *Table, since time.Time) Watermark {
	return Watermark{Issuer: idp, Subject: "alice", Origin: table.self, Before: OriginTime(table.cfg.Clock.Boot()), Fresh: FreshFrom(since),
		End: End{Reason: ReasonProvider, At: time.Now()}}
}

func signedIn(key byte, authenticated time.Time) Session {
	return Session{Key: Key{key}, Method: "browser", SID: "sid", Identity: Identity{Issuer: idp, Subject: "alice", Email: "Alice@Example.org", AuthTime: authenticated}}
}

func TestMergeWatermarks(t *testing.T) {
	var list []Watermark
	for before := OriginTime(1); before < 4; before++ {
		for fresh := range int64(3) {
			list = append(list, Watermark{Before: before, Fresh: fresh + 1, End: End{Message: string(rune('0' + before))}})
		}
	}
	for _, a := range list {
		if mergeWatermarks(a, a) != a {
			t.Errorf("%+v with itself: %+v", a, mergeWatermarks(a, a))
		}
		for _, b := range list {
			ab := mergeWatermarks(a, b)
			if ab != mergeWatermarks(b, a) {
				t.Errorf("%+v, %+v: not commutative", a, b)
			}
			if ab.Before != max(a.Before, b.Before) || ab.Fresh != max(a.Fresh, b.Fresh) || ab.End.Message != string(rune('0'+ab.Before)) {
				t.Errorf("%+v, %+v: %+v", a, b, ab)
			}
			for _, c := range list {
				if mergeWatermarks(ab, c) != mergeWatermarks(a, mergeWatermarks(b, c)) {
					t.Errorf("%+v, %+v, %+v: not associative", a, b, c)
				}
			}
		}
	}
}

func TestFreshFrom(t *testing.T) {
	for at, want := range map[time.Time]int64{time.Unix(9, 0): 9, time.Unix(9, 1): 10, time.Unix(9, 999_999_999): 10} {
		if got := FreshFrom(at); got != want {
			t.Errorf("%v: %d", at, got)
		}
	}
}

// Whose sessions end is let in again when the provider says that the user was authenticated since, and not before.
func TestFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		changed := time.Unix(2_000_000_000, 0)
		old, err := h.Create(signedIn(1, changed.Add(time.Hour)), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		h.RestoreWatermark(Watermark{Issuer: idp, Subject: "alice", Before: 1, End: End{Reason: ReasonKilled}}) // another, without
		if news, endings, err := h.Raise(freshMark(h.Table, changed)); err != nil || !news || len(endings) != 1 || endings[0].Session.ID != old.ID {
			t.Fatalf("news %v, ended %v, %v", news, endings, err)
		}
		if since := h.FreshSince(old.Identity, ""); !since.Equal(changed) {
			t.Errorf("fresh since %v", since)
		}
		time.Sleep(time.Second)
		for name, tc := range map[string]struct {
			change func(*Session)
			want   error
		}{
			"since":                      {func(*Session) {}, nil},
			"a second before":            {func(s *Session) { s.Identity.AuthTime = changed.Add(-time.Second) }, ErrNotFresh},
			"a moment before":            {func(s *Session) { s.Identity.AuthTime = changed.Add(-time.Millisecond) }, ErrNotFresh},
			"never":                      {func(s *Session) { s.Identity.AuthTime = time.Time{} }, ErrNotFresh},
			"never, with a code":         {func(s *Session) { s.Method, s.Identity.AuthTime = "device", time.Time{} }, ErrNotFresh},
			"somebody else":              {func(s *Session) { s.Identity = Identity{Issuer: idp, Subject: "bob"} }, nil},
			"elsewhere":                  {func(s *Session) { s.Identity = Identity{Issuer: "https://other", Subject: "alice"} }, nil},
			"a machine":                  {func(s *Session) { s.Method, s.Identity.AuthTime = MethodToken, time.Time{} }, nil},
			"a machine of a user's":      {func(s *Session) { s.Method, s.Identity.AuthTime = MethodToken, changed.Add(-time.Second) }, ErrNotFresh},
			"a machine of a fresh one's": {func(s *Session) { s.Method = MethodToken }, nil},
		} {
			s := signedIn(2, changed)
			tc.change(&s)
			made, err := h.Create(s, time.Hour)
			if !errors.Is(err, tc.want) {
				t.Errorf("authenticated %s: %v", name, err)
			}
			if err == nil {
				_, _ = h.End(made.ID, End{Reason: ReasonLogout})
			}
		}
		// A later watermark that asks for nothing takes nothing back; and neither does one of an earlier event that comes late.
		time.Sleep(time.Second)
		plain, late := freshMark(h.Table, changed), freshMark(h.Table, changed.Add(-time.Hour))
		plain.Fresh, plain.Keep = 0, time.Hour
		for _, w := range []Watermark{plain, late} {
			if news, _, err := h.Raise(w); err != nil || !news {
				t.Fatal(news, err)
			}
		}
		time.Sleep(2 * time.Hour)
		if _, err := h.Create(signedIn(3, changed.Add(-time.Second)), time.Hour); !errors.Is(err, ErrNotFresh) {
			t.Errorf("after others: %v", err)
		}
		time.Sleep(MaxLifetime - 3*time.Hour)
		if _, err := h.Create(signedIn(3, changed.Add(-time.Second)), time.Hour); !errors.Is(err, ErrNotFresh) {
			t.Errorf("shortly before it is forgotten: %v", err)
		}
		time.Sleep(3 * time.Hour)
		if since := h.FreshSince(old.Identity, ""); !since.IsZero() {
			t.Errorf("still asks for %v", since)
		}
		if _, err := h.Create(signedIn(3, changed.Add(-time.Second)), time.Hour); err != nil {
			t.Errorf("when it is forgotten: %v", err)
		}
	})
}

// An address, and a provider's session, can be meant, too; also of who is not signed in.
func TestFreshOfAnAddressAndASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changed := time.Unix(2_000_000_000, 0)
		for name, about := range map[string]func(*Watermark){
			"address": func(w *Watermark) { w.Subject = EmailSubject("ALICE@example.ORG") },
			"session": func(w *Watermark) { w.Subject, w.SID = "", "sid" },
		} {
			h := newHarness(t)
			w := freshMark(h.Table, changed)
			about(&w)
			if _, _, err := h.Raise(w); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if _, err := h.Create(signedIn(1, changed.Add(-time.Second)), time.Hour); !errors.Is(err, ErrNotFresh) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := h.Create(signedIn(1, changed), time.Hour); err != nil {
				t.Errorf("%s, authenticated since: %v", name, err)
			}
			other := signedIn(2, time.Time{})
			other.Identity.Email, other.SID = "bob@example.org", "else"
			if _, err := h.Create(other, time.Hour); err != nil {
				t.Errorf("somebody else than %s: %v", name, err)
			}
		}
	})
}

// What another node let in that had not heard of it ends when both learn from each other, whichever comes first.
func TestFreshElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 0)
		changed := time.Unix(2_000_000_000, 0)
		w := freshMark(c.tables[0].Table, changed)
		if _, _, err := c.tables[0].Raise(w); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		stale, err := c.tables[1].Create(signedIn(1, changed.Add(-time.Second)), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := c.tables[1].Create(signedIn(2, changed), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		c.settle()
		if _, err := c.tables[0].ByID(stale.ID); ReasonOf(err) != ReasonProvider {
			t.Errorf("taken over: %v", err)
		}
		for _, table := range c.tables[1:] {
			if _, _, err := table.Raise(w); err != nil {
				t.Fatal(err)
			}
		}
		c.ended(t, stale.ID, ReasonProvider)
		for i, table := range c.tables {
			if _, err := table.ByID(fresh.ID); err != nil {
				t.Errorf("node %d, authenticated since: %v", i, err)
			}
		}
	})
}

// A node that hears of it when nobody knows the clock any more by which it was raised lets nobody in who is not fresh, and ends
// nobody who is.
func TestFreshOfAClockThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, 0)
		h, changed := c.tables[0], time.Unix(2_000_000_000, 0)
		fresh, err := h.Create(signedIn(1, changed), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		stale, err := h.Create(signedIn(2, changed.Add(-time.Second)), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		w := freshMark(h.Table, changed)
		w.Origin = Origin{Node: "gone", Boot: 9}
		if _, endings, err := h.Raise(w); err != nil || len(endings) != 1 || endings[0].Session.ID != stale.ID {
			t.Errorf("ended %v, %v", endings, err)
		}
		if _, err := h.ByID(fresh.ID); err != nil {
			t.Error(err)
		}
	})
}

func TestFreshThatSaysNothing(t *testing.T) {
	h := newHarness(t)
	good := freshMark(h.Table, time.Unix(9, 0))
	for name, spoil := range map[string]func(*Watermark){
		"negative":     func(w *Watermark) { w.Fresh = -1 },
		"everybody":    func(w *Watermark) { w.Issuer, w.Subject = "", "" },
		"no issuer":    func(w *Watermark) { w.Issuer = "" },
		"without name": func(w *Watermark) { w.SID = UnnamedSID },
	} {
		w := good
		if spoil(&w); w.check() == nil {
			t.Errorf("%s: %+v is taken", name, w)
		}
	}
	if err := good.check(); err != nil {
		t.Error(err)
	}
}
