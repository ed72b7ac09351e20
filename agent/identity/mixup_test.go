// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// TestIssuerParameter: a code goes to the token endpoint only if the provider that was asked has sent it, as far as that can be
// told (RFC 9207). TestIssuerMixUp goes the whole way.
func TestIssuerParameter(t *testing.T) {
	s := newSuite(t)
	for _, tc := range []struct {
		name      string
		announced bool
		iss       string
		ok        bool
	}{
		{"announced and sent", true, s.URL, true},
		{"announced and taken out", true, "", false},
		{"announced and another", true, "https://else.example", false},
		{"announced and almost", true, s.URL + "/", false},
		{"not announced, not sent", false, "", true},
		{"not announced, sent", false, s.URL, true},
		{"not announced, another", false, "https://else.example", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.behave(t)
			usual := s.discovery
			s.discovery = func(doc map[string]any) {
				usual(doc)
				doc["authorization_response_iss_parameter_supported"] = tc.announced
			}
			p, mine, asked := s.provider(t, nil), newSecrets(""), 0
			s.token = func(w http.ResponseWriter, _ *http.Request) { asked++; writeTokens(w, 1, s.sign(t, mine.nonce, nil)) }
			in, err := p.exchange(t.Context(), "code", tc.iss, mine)
			if tc.ok && (err != nil || in.Identity.Subject != "alice") || !tc.ok && (err == nil || asked != 0) {
				t.Errorf("%+v, %v; the code was sent %d times", in.Identity, err, asked)
			}
		})
	}
}

// twoProviders are an honest provider and one of an attacker's, at one agent, and a sign-in at the honest one whose page is open.
func twoProviders(t *testing.T) (honest, evil *suite, l *Logins, at callback) {
	t.Helper()
	honest, evil = newSuite(t), newSuite(t)
	honest.behave(t)
	evil.behave(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	l = NewLogins(LoginsConfig{Vault: NewVault(log, nil), Log: log, Providers: providersOf(
		honest.provider(t, func(c *Config) { c.Name = "honest" }), evil.provider(t, func(c *Config) { c.Name = "evil" }))})
	started, err := l.Begin(session.Key{1}, netip.MustParseAddr("192.0.2.1"), api.LoginRequest{Provider: "honest", Redirect: "http://127.0.0.1:1/", State: "12345678"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Open(started.URL[strings.LastIndex(started.URL, "/")+1:], "browser"); err != nil {
		t.Fatal(err)
	}
	return honest, evil, l, callback{provider: "honest", code: "code", state: l.pending.byKey[session.Key{1}].secrets.state, browser: "browser"}
}

// TestCallbackOfAnotherProvider is the mix-up attack without the parameter iss: the answer comes to the address of another
// provider (RFC 9700, section 4.4.2.2), or the other provider vouches for the user.
func TestCallbackOfAnotherProvider(t *testing.T) {
	_, evil, l, at := twoProviders(t)
	evil.token = func(http.ResponseWriter, *http.Request) { t.Error("the code went to the attacker") }
	wrong := at
	wrong.provider = "evil"
	if to, err := l.Callback(t.Context(), wrong); !errors.Is(err, errLoginGone) {
		t.Errorf("at the address of another: %q, %v", to, err)
	}

	honest, evil, l, at := twoProviders(t)
	honest.token = func(w http.ResponseWriter, _ *http.Request) {
		writeTokens(w, 1, evil.sign(t, l.pending.byKey[session.Key{1}].secrets.nonce, nil))
	}
	if to, err := l.Callback(t.Context(), at); err != nil || !strings.Contains(to, "error=token_refused") || strings.Contains(to, "code=") {
		t.Errorf("an ID token of another: %q, %v", to, err)
	}
}

// TestStateReplayedAtOnce: of many callbacks with one state, one sends its code to the provider. TestStateMismatch has the one
// that comes later.
func TestStateReplayedAtOnce(t *testing.T) {
	honest, _, l, at := twoProviders(t)
	nonce := l.pending.byKey[session.Key{1}].secrets.nonce
	var asked, through atomic.Int64
	honest.token = func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		writeTokens(w, 1, honest.sign(t, nonce, nil))
	}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if to, err := l.Callback(t.Context(), at); err == nil && strings.Contains(to, "code=") {
				through.Add(1)
			}
		})
	}
	all.Wait()
	if asked.Load() != 1 || through.Load() != 1 {
		t.Errorf("%d codes sent to the provider, %d of ours given out", asked.Load(), through.Load())
	}
}

// TestHugeIDToken: megabytes from the token endpoint end a sign-in, whatever is in them.
func TestHugeIDToken(t *testing.T) {
	s := newSuite(t)
	s.behave(t)
	s.idToken = func(nonce string) string {
		return s.sign(t, nonce, func(c, _ map[string]any) { c["name"] = strings.Repeat("a", 8<<20) })
	}
	in, err := s.signIn(t, s.provider(t, nil))
	must(t, in, err, "exchange code")
}

// TestBrowserGoesAwayMeanwhile keeps out tokens that nobody revokes: the browser has hung up while the provider gave them.
func TestBrowserGoesAwayMeanwhile(t *testing.T) {
	honest, _, l, at := twoProviders(t)
	nonce := l.pending.byKey[session.Key{1}].secrets.nonce
	ctx, hangUp := context.WithCancel(t.Context())
	honest.token = func(w http.ResponseWriter, r *http.Request) {
		hangUp()
		select {
		case <-r.Context().Done(): // it has been cut short
		case <-time.After(200 * time.Millisecond):
			writeTokens(w, 1, honest.sign(t, nonce, nil))
		}
	}
	_, _ = l.Callback(ctx, at) // nobody hears the answer
	runVault(t, l.cfg.Vault)
	l.mu.Lock()
	l.now = func() time.Time { return time.Now().Add(2 * codeLifetime) }
	l.sweepLocked()
	l.mu.Unlock()
	waitFor(t, func() bool { return honest.revoked.Load() == 2 })
}
