// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/session"
)

// newEndings returns endings of a node in no cluster, and sessions by the names of their users' keys.
func newEndings(t *testing.T) (*endings, map[string]session.Session) {
	t.Helper()
	clock := hostclock.Clock{}
	table, err := session.NewTable(session.TableConfig{Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]session.Session{}
	for i, s := range []session.Session{
		{SID: "s1", Identity: session.Identity{Issuer: "https://idp", Subject: "alice", Email: "alice@example.org"}},
		{SID: "s2", Identity: session.Identity{Issuer: "https://idp", Subject: "alice", Email: "alice@example.org"}},
		{SID: "s1", Identity: session.Identity{Issuer: "https://other", Subject: "alice", Email: "alice@example.org"}},
		{SID: "s3", Identity: session.Identity{Issuer: "https://idp", Subject: "bob", Email: "bob@example.org"}},
		{Identity: session.Identity{Issuer: "https://idp", Subject: "carol", Email: "carol@example.org"}},
		{SID: "s4", Identity: session.Identity{Issuer: "https://idp", Subject: "carol", Email: "carol@example.org"}},
	} {
		s.Key = session.Key{byte(i + 1)}
		if s, err = table.Create(s, time.Hour); err != nil {
			t.Fatal(err)
		}
		made[[]string{"alice1", "alice2", "other", "bob", "unnamed", "named"}[i]] = s
	}
	return &endings{table: table, clock: clock, keep: func() time.Duration { return 0 }}, made
}

func TestEndings(t *testing.T) {
	for name, tc := range map[string]struct {
		who  func(made map[string]session.Session) session.Match
		ends []string
		// later is whether one that is signed in later lives.
		later bool
	}{
		"the provider's session": {func(map[string]session.Session) session.Match { return session.Match{Issuer: "https://idp", SID: "s1"} }, []string{"alice1"}, false},
		"a subject": {func(map[string]session.Session) session.Match {
			return session.Match{Issuer: "https://idp", Subject: "alice"}
		}, []string{"alice1", "alice2"}, true},
		"a subject of whomever": {func(map[string]session.Session) session.Match { return session.Match{Subject: "alice"} }, []string{"alice1", "alice2", "other"}, true},
		"an address":            {func(map[string]session.Session) session.Match { return session.Match{Email: "alice@example.org"} }, []string{"alice1", "alice2", "other"}, true},
		"an address at an issuer": {func(map[string]session.Session) session.Match {
			return session.Match{Issuer: "https://idp", Email: "alice@example.org"}
		}, []string{"alice1", "alice2"}, true},
		"one session": {func(made map[string]session.Session) session.Match { return session.Match{ID: made["bob"].ID} }, []string{"bob"}, true},
		"one session, of another issuer": {func(made map[string]session.Session) session.Match {
			return session.Match{ID: made["bob"].ID, Issuer: "https://other"}
		}, nil, true},
		"what the provider has no name for": {func(map[string]session.Session) session.Match {
			return session.Match{Issuer: "https://idp", Subject: "carol", Unnamed: true}
		}, []string{"unnamed"}, true},
		"nobody": {func(map[string]session.Session) session.Match { return session.Match{Issuer: "https://idp", SID: "s9"} }, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			e, made := newEndings(t)
			n, err := e.End(t.Context(), tc.who(made), session.End{Reason: session.ReasonProvider})
			if err != nil || n != len(tc.ends) {
				t.Errorf("%d ended, %v", n, err)
			}
			for name, s := range made {
				if _, err := e.table.ByID(s.ID); (err != nil) != slices.Contains(tc.ends, name) {
					t.Errorf("%s: %v", name, err)
				}
			}
			_, err = e.table.Create(session.Session{Key: session.Key{9}, SID: "s1", Identity: session.Identity{Issuer: "https://idp", Subject: "alice", Email: "alice@example.org"}}, time.Hour)
			if (err == nil) != tc.later {
				t.Errorf("signed in later: %v", err)
			}
		})
	}
	e, _ := newEndings(t)
	if n, err := e.End(t.Context(), session.Match{Issuer: "https://idp"}, session.End{Reason: session.ReasonProvider}); err == nil || n != 0 {
		t.Errorf("nobody in particular: %d ended, %v", n, err)
	}
}

// Who is meant is let in again only when they were authenticated since; whose address is meant, also if nobody knew it.
func TestEndUntilFresh(t *testing.T) {
	changed := time.Now().Add(-time.Minute)
	for name, tc := range map[string]struct {
		who  session.Match
		ends []string
	}{
		"a subject":              {session.Match{Issuer: "https://idp", Subject: "alice"}, []string{"alice1", "alice2"}},
		"an address":             {session.Match{Issuer: "https://idp", Email: "ALICE@example.org"}, []string{"alice1", "alice2"}},
		"an address of another":  {session.Match{Issuer: "https://idp", Email: "new@example.org"}, nil},
		"the provider's session": {session.Match{Issuer: "https://idp", SID: "s1"}, []string{"alice1"}},
	} {
		e, made := newEndings(t)
		n, err := e.EndUntilFresh(t.Context(), tc.who, session.End{Reason: session.ReasonProvider}, changed)
		if err != nil || n != len(tc.ends) {
			t.Errorf("%s: %d ended, %v", name, n, err)
		}
		for user, s := range made {
			if _, err := e.table.ByID(s.ID); (err != nil) != slices.Contains(tc.ends, user) {
				t.Errorf("%s: %s: %v", name, user, err)
			}
		}
		for key, at := range []time.Time{{}, changed.Add(-time.Second), changed.Add(time.Second)} {
			s := session.Session{Key: session.Key{9, byte(key)}, SID: "s1", Method: "browser", Identity: session.Identity{Issuer: "https://idp", Subject: "alice", Email: "alice@example.org", AuthTime: at}}
			if name == "an address of another" {
				s.Identity.Subject, s.Identity.Email = "dave", "New@example.org"
			}
			if _, err := e.table.Create(s, time.Hour); errors.Is(err, session.ErrNotFresh) != (key < 2) {
				t.Errorf("%s, authenticated at %v: %v", name, at, err)
			}
		}
	}
	e, made := newEndings(t)
	for _, who := range []session.Match{{}, {Subject: "alice"}, {ID: made["bob"].ID}, {Issuer: "https://idp", Subject: "bob", Unnamed: true}} {
		if n, err := e.EndUntilFresh(t.Context(), who, session.End{Reason: session.ReasonProvider}, changed); err == nil || n != 0 {
			t.Errorf("%+v: %d ended, %v", who, n, err)
		}
	}
}

// Whoever can be asked about is asked about; of whom nobody can be asked, the session ends.
func TestReconsider(t *testing.T) {
	e, made := newEndings(t)
	var asked, again []session.ID
	e.held = func(id session.ID) bool { return id == made["alice1"].ID }
	e.ask = func(_ context.Context, which func(session.ID) bool) int {
		for _, s := range made {
			if which(s.ID) {
				asked = append(asked, s.ID)
			}
		}
		return len(asked)
	}
	e.reauthorise = func(_ context.Context, ids ...session.ID) { again = append(again, ids...) }
	n, err := e.Reconsider(t.Context(), session.Match{Issuer: "https://idp", Subject: "alice"})
	if err != nil || n != 2 || len(asked) != 2 || len(again) != 2 {
		t.Errorf("%d, asked %v, policy %v, %v", n, asked, again, err)
	}
	for name, s := range made {
		_, err := e.table.ByID(s.ID)
		if want := name == "alice2"; (session.ReasonOf(err) == session.ReasonUnvalidated && err != nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	var refused error
	if _, refused = e.Reconsider(t.Context(), session.Match{}); refused == nil || errors.Is(refused, session.ErrNotFound) {
		t.Errorf("nobody in particular: %v", refused)
	}
}
