// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// freshRig is an agent of which alice's credential has changed, with a provider that says of her what a test wants.
type freshRig struct {
	*Logins
	idp    *hostile
	table  *oneSession
	since  time.Time // zero: nothing has changed
	counts map[string]int
}

func newFresh(t *testing.T) *freshRig {
	t.Helper()
	r := &freshRig{idp: newHostile(t), table: &oneSession{}, since: time.Now().Add(-time.Hour).Truncate(time.Second), counts: map[string]int{}}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	vault := NewVault(log, nil)
	runVault(t, vault)
	r.Logins = NewLogins(LoginsConfig{Providers: providersOf(r.idp.provider(t, nil)), Sessions: r.table, Vault: vault, Log: log, Count: func(e string) { r.counts[e]++ },
		FreshSince: func(who session.Identity, _ string) time.Time {
			if who.Subject != "alice" {
				return time.Time{}
			}
			return r.since
		}})
	return r
}

// open begins a sign-in, and returns what the browser is sent to the provider with.
func (r *freshRig) open(t *testing.T, d *Demand) url.Values {
	t.Helper()
	started, err := r.Begin(session.Key{1}, netip.Addr{}, api.LoginRequest{Redirect: "http://127.0.0.1:1/", State: "12345678"}, d)
	if err != nil {
		t.Fatal(err)
	}
	to, err := r.Open(started.URL[strings.LastIndex(started.URL, "/")+1:], "browser")
	if err != nil {
		t.Fatal(err)
	}
	return query(t, to)
}

func query(t *testing.T, link string) url.Values {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}

// answer has the provider answer what it was asked: it authenticated alice at an instant, or does not say.
func (r *freshRig) answer(t *testing.T, asked url.Values, at time.Time) (url.Values, error) {
	t.Helper()
	r.idp.token = func(w http.ResponseWriter, _ *http.Request) {
		c := r.idp.goodClaims()
		if c["nonce"] = asked.Get("nonce"); !at.IsZero() {
			c["auth_time"] = at.Unix()
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"access","refresh_token":"refresh","token_type":"Bearer","id_token":"` +
			r.idp.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, marshal(t, c)) + `"}`))
	}
	to, err := r.Callback(t.Context(), callback{code: "code", state: asked.Get("state"), browser: "browser"})
	return query(t, to), err
}

// A browser whose single sign-on is from before is sent back once, with secrets of its own, and has a session when the provider has
// authenticated the user; what it was given before is revoked by then.
func TestNotFreshIsSentBackOnce(t *testing.T) {
	r := newFresh(t)
	first := r.open(t, demandOf("db", session.Requirement{ACR: []string{"mfa"}}, session.Identity{}, time.Now()))
	if first.Get("prompt") != "" || first.Has("max_age") {
		t.Errorf("at first: %v", first)
	}
	again, err := r.answer(t, first, r.since.Add(-time.Second))
	if err != nil || again.Get("prompt") != "login" || again.Get("max_age") != "0" || again.Get("acr_values") != "mfa" || again.Get("redirect_uri") != first.Get("redirect_uri") {
		t.Fatalf("%v, %v", again, err)
	}
	if r.idp.revoked.Load() != 2 {
		t.Errorf("%d tokens are revoked", r.idp.revoked.Load())
	}
	for _, secret := range []string{"state", "nonce", "code_challenge"} {
		if again.Get(secret) == "" || again.Get(secret) == first.Get(secret) {
			t.Errorf("%s is the same", secret)
		}
	}
	// Neither what was used nor another browser gets anywhere.
	if _, err := r.Callback(t.Context(), callback{code: "code", state: first.Get("state"), browser: "browser"}); !errors.Is(err, errLoginGone) {
		t.Errorf("the state of before: %v", err)
	}
	if _, err := r.Callback(t.Context(), callback{code: "code", state: again.Get("state"), browser: "another"}); !errors.Is(err, errOtherBrowser) {
		t.Errorf("another browser: %v", err)
	}
	r.Logins.mu.Lock()
	if n := len(r.pending.byState) + len(r.pending.byStart) + len(r.pending.byKey) + r.pending.bySource[r.pending.byKey[session.Key{1}].source]; n != 4 {
		t.Errorf("%d entries of one sign-in", n)
	}
	r.pending.byKey[session.Key{1}].demand.require = session.Requirement{} // whose refusal is not the point here
	r.Logins.mu.Unlock()
	done, err := r.answer(t, again, time.Now())
	if err != nil || done.Get("code") == "" {
		t.Fatalf("%v, %v", done, err)
	}
	if _, err := r.Complete(t.Context(), session.Key{2}, done.Get("code")); err == nil {
		t.Error("the code is good with another key")
	}
	if r.counts[EventFreshAsked] != 1 || r.counts[EventFreshRefused] != 0 {
		t.Errorf("counted %v", r.counts)
	}
}

// A provider that does not authenticate the user, or does not say so, makes no session, and no loop.
func TestNotFreshIsRefused(t *testing.T) {
	const sent, made = "sent back", "" // else: what the client is told
	for name, tc := range map[string]struct {
		first, second string
		at, then      time.Duration
	}{
		"long before, and again":        {sent, "has changed at", -time.Hour, -time.Second},
		"never said":                    {sent, "auth_time", 0, 0},
		"a minute after, surely":        {made, made, time.Minute, 0},
		"so soon that it may be before": {sent, made, 59 * time.Second, time.Second},
		"at that instant, when asked":   {sent, made, -time.Second, 1},
		"in the future":                 {sent, "in the future", 3 * time.Hour, 3 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFresh(t)
			at := func(d time.Duration) time.Time {
				if d == 0 {
					return time.Time{}
				}
				return r.since.Add(d)
			}
			asked := r.open(t, nil)
			got, err := r.answer(t, asked, at(tc.at))
			if err != nil {
				t.Fatal(err)
			}
			want := tc.first
			if want == sent {
				if got.Get("max_age") != "0" {
					t.Fatalf("not sent back: %v", got)
				}
				if got, err = r.answer(t, got, at(tc.then)); err != nil {
					t.Fatal(err)
				}
				want = tc.second
			}
			if want != made {
				if got.Get("error") != "not_fresh" || !strings.Contains(got.Get("error_description"), want) || got.Has("code") {
					t.Errorf("the client is told %v", got)
				}
				waitFor(t, func() bool { return r.idp.revoked.Load() == 4 })
				return
			}
			if _, err := r.Complete(t.Context(), session.Key{1}, got.Get("code")); err != nil || r.table.made.Load() != 1 {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

// A credential that changes between the provider's answer and the session counts, too.
func TestNotFreshAtTheLastMoment(t *testing.T) {
	r := newFresh(t)
	changed := r.since
	r.since = time.Time{}
	done, err := r.answer(t, r.open(t, nil), changed.Add(-time.Second))
	if err != nil || done.Get("code") == "" {
		t.Fatal(done, err)
	}
	r.since = changed
	var told *api.Error
	if _, err := r.Complete(t.Context(), session.Key{1}, done.Get("code")); !errors.As(err, &told) || told.Code != api.CodeForbidden || !strings.Contains(told.Hint, "curfew login") || r.table.made.Load() != 0 {
		t.Errorf("%v", err)
	}
	waitFor(t, func() bool { return r.idp.revoked.Load() == 2 })
}

// With a code, nobody can be sent back: who needs that is told where it can be done.
func TestNotFreshWithACode(t *testing.T) {
	d := newDevices(t)
	d.cfg.FreshSince = func(session.Identity, string) time.Time { return time.Now().Add(-time.Hour) }
	started := d.begin(t)
	d.wait(time.Minute)
	var told *api.Error
	if _, _, err := d.PollDevice(t.Context(), session.Key{1}, started.Login); !errors.As(err, &told) || !strings.Contains(told.Message, "auth_time") || !strings.Contains(told.Hint, "browser") || d.table.made.Load() != 0 {
		t.Errorf("%v", err)
	}
	waitFor(t, func() bool { return d.idp.revoked.Load() == 2 })
}
