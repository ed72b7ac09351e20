// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
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
	"github.com/curfew-proxy/curfew/test/selfsigned"
)

// A reload that changes a provider is heeded by what is there already, which loses nothing of what is known of the provider.
func TestProviderIsReconfigured(t *testing.T) {
	var secret atomic.Value
	h, _, r := refreshed(t, func(w http.ResponseWriter, req *http.Request) {
		_, s, _ := req.BasicAuth()
		secret.Store(s)
		writeTokens(w, 1, "")
	}, nil)
	p := r.Providers.All()[0]
	known := p.meta.Load()
	reconfigure(t, r.Providers, func(*Config) {})
	if p.meta.Load() != known {
		t.Error("a provider that is the same is not left alone")
	}
	reconfigure(t, r.Providers, func(c *Config) { c.ClientSecret, c.GroupsClaim, c.Algorithms = "fresh", "roles", []string{"ES256"} })
	if now := p.meta.Load(); r.Providers.All()[0] != p || now == nil || now.keys != known.keys {
		t.Fatal("what was known is lost")
	}
	if r.Ask(t.Context(), all); secret.Load() != "fresh" {
		t.Errorf("a session that lives is asked about with the secret %q", secret.Load())
	}
	raw := h.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, encodeJSON(t, h.goodClaims()))
	if _, err := p.signedIn(t.Context(), p.meta.Load(), raw, "", testNonce); err == nil || !strings.Contains(err.Error(), "algorithm") {
		t.Errorf("an algorithm that is not allowed any more: %v", err)
	}
	for name, change := range map[string]func(*Config){
		"an algorithm of no use": func(c *Config) { c.Algorithms = []string{"none"} },
		"no certificate":         func(c *Config) { c.CA = []byte("none") },
	} {
		c, before := *p.config(), p.settings.Load()
		change(&c)
		if _, err := r.Providers.Prepare([]Config{c}); err == nil || !strings.Contains(err.Error(), "provider hostile") || p.settings.Load() != before {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.Providers.Prepare([]Config{*p.config(), *p.config()}); err == nil {
		t.Error("two of a name are taken")
	}
}

// What was found out from somebody whose certificate is not to be believed any more is found out anew, keys and all.
func TestProviderWithOtherCertificates(t *testing.T) {
	h := newHostile(t)
	ps := providersOf(h.provider(t, nil))
	p := ps.All()[0]
	known := p.meta.Load()
	reconfigure(t, ps, func(c *Config) { c.CA = selfsigned.PEM(t, "ca.example") })
	if p.Ready() {
		t.Fatal("what was found out before is used still")
	}
	if _, err := p.authURL(newSecrets(""), nil); err == nil {
		t.Error("a sign-in began")
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = ps.Run(ctx) })
	waitFor(t, p.Ready)
	p.await(time.Minute)
	if p.meta.Load().keys == known.keys {
		t.Error("the keys from before are believed still")
	}
	stop()
	running.Wait()
}

// How often a provider is asked, and for how long its silence is borne, is what the last configuration says.
func TestRevalidationIsReconfigured(t *testing.T) {
	var n atomic.Int64
	_, d, r := refreshed(t, func(w http.ResponseWriter, _ *http.Request) { writeTokens(w, int(n.Add(1)), "") },
		func(c *Config) { c.Revalidation.Every = 10 * time.Hour })
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	r.Vault.begin(func(*grant) bool { return false }) // when to ask next is known
	reconfigure(t, r.Providers, func(c *Config) { c.Revalidation.Every = 100 * time.Millisecond })
	waitFor(t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.valid >= 2
	})
	stop()
	running.Wait()
}

// A provider that was taken out is asked about nothing any more, but to revoke what it gave; one that takes its name gets
// nothing of it, and what is new is discovered at once.
func TestProviderIsTakenOut(t *testing.T) {
	h, _, r := refreshed(t, func(http.ResponseWriter, *http.Request) { t.Error("a token is sent") }, nil)
	ps, p := r.Providers, r.Providers.All()[0]
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { _ = ps.Run(ctx) })
	running.Go(func() { _ = r.Run(ctx) })
	other := newHostile(t)
	other.token = func(http.ResponseWriter, *http.Request) { t.Error("a token is sent to another") }
	c := *p.config()
	c.Issuer = other.URL
	take, err := ps.Prepare([]Config{c})
	if err != nil {
		t.Fatal(err)
	}
	if p.takenOut() {
		t.Error("before it is taken into service")
	}
	if out := take(); len(out) != 1 || out[0] != p || !p.takenOut() {
		t.Fatalf("taken out: %v", out)
	}
	if ids := r.Vault.Of(p); len(ids) != 1 || ids[0] != (session.ID{1}) {
		t.Errorf("its sessions: %v", ids)
	}
	waitFor(t, ps.All()[0].Ready)
	if n := len(r.Vault.Of(ps.All()[0])); n != 0 {
		t.Errorf("%d sessions of its successor", n)
	}
	r.Ask(t.Context(), all)
	if err := r.Vault.EndSession(t.Context(), session.ID{1}); err != nil || h.revoked.Load() != 2 || other.revoked.Load() != 0 {
		t.Errorf("%v; %d revoked, %d at another", err, h.revoked.Load(), other.revoked.Load())
	}
}

// Tokens that were sealed are of no use to another registration either, and their sessions are named: with another issuer under
// the name, the refresh token went there.
func TestSealedTokensOfAnotherRegistration(t *testing.T) {
	_, d, r := refreshed(t, nil, nil)
	sealed := d.disk[session.ID{1}]
	for name, change := range map[string]func(*Config){
		"issuer": func(c *Config) { c.Issuer = "https://else.example" }, "client": func(c *Config) { c.ClientID = "else" },
		"name": func(c *Config) { c.Name = "else" },
	} {
		for _, live := range []bool{true, false} {
			c := *r.Providers.All()[0].config()
			change(&c)
			ps, err := NewProviders([]Config{c}, r.Log)
			if err != nil {
				t.Fatal(err)
			}
			v, disk := NewVault(r.Log, nil), &register{disk: map[session.ID][]byte{{1}: sealed}}
			forsaken, err := v.Keep(make([]byte, SealKeyLen), disk, ps, func(session.ID) bool { return live })
			if err != nil || len(v.held) != 0 || v.toRevoke() != 0 || len(disk.disk) != 0 || (len(forsaken) == 1) != live {
				t.Errorf("another %s: %v, %v; %d held, %d to be revoked", name, forsaken, err, len(v.held), v.toRevoke())
			}
		}
	}
}

// Whoever is signing in at a provider that is taken out meanwhile is told so, at whatever step, and gets no session.
func TestSignInAtAProviderThatIsTakenOut(t *testing.T) {
	const takenOut = "was taken out of"
	for _, stage := range []string{"before the page", "at the provider", "before the code is redeemed"} {
		t.Run(stage, func(t *testing.T) {
			s, _, l, at := twoProviders(t)
			s.token = func(w http.ResponseWriter, _ *http.Request) {
				if stage == "at the provider" {
					t.Error("the code was sent")
				}
				writeTokens(w, 1, s.sign(t, l.pending.byKey[session.Key{1}].secrets.nonce, nil))
			}
			take, err := l.cfg.Providers.Prepare([]Config{*l.cfg.Providers.named("evil").config()})
			if err != nil {
				t.Fatal(err)
			}
			if stage == "before the page" {
				started, err := l.Begin(session.Key{2}, netip.Addr{}, api.LoginRequest{Provider: "honest", Redirect: "http://127.0.0.1:1/", State: "12345678"}, nil)
				if err != nil {
					t.Fatal(err)
				}
				take()
				if _, err := l.Open(started.URL[strings.LastIndex(started.URL, "/")+1:], "browser"); codeOf(err) != api.CodeForbidden || !strings.Contains(err.Error(), takenOut) {
					t.Errorf("the page: %v", err)
				}
				return
			}
			if stage == "at the provider" {
				take()
			}
			to, err := l.Callback(t.Context(), at)
			if stage == "at the provider" {
				if err != nil || !strings.Contains(to, "taken+out") || strings.Contains(to, "code=") {
					t.Errorf("the callback: %q, %v", to, err)
				}
				return
			}
			if err != nil || !strings.Contains(to, "code=") {
				t.Fatalf("%q, %v", to, err)
			}
			take()
			if _, err := l.Complete(t.Context(), session.Key{1}, to[strings.Index(to, "code=")+5:strings.Index(to, "&")]); codeOf(err) != api.CodeForbidden || !strings.Contains(err.Error(), takenOut) {
				t.Errorf("the code: %v", err)
			}
			if l.cfg.Vault.toRevoke() != 1 {
				t.Error("its tokens are not to be revoked")
			}
		})
	}
}

// Codes that are entered after a reload has switched them off, or has taken the provider out, sign nobody in.
func TestDeviceIsSwitchedOffMeanwhile(t *testing.T) {
	for want, configure := range map[string]func(*testing.T, *Providers){
		"switched off": func(t *testing.T, ps *Providers) { reconfigure(t, ps, func(c *Config) { c.Device = false }) },
		"taken out": func(t *testing.T, ps *Providers) {
			take, err := ps.Prepare(nil)
			if err != nil {
				t.Fatal(err)
			}
			take()
		},
	} {
		d := newDevices(t)
		started, err := d.BeginDevice(t.Context(), session.Key{1}, netip.Addr{}, api.DeviceRequest{})
		if err != nil {
			t.Fatal(err)
		}
		configure(t, d.Logins.cfg.Providers)
		d.ahead.Store(int64(time.Minute))
		if _, _, err := d.PollDevice(t.Context(), session.Key{1}, started.Login); codeOf(err) != api.CodeForbidden || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if n := d.polls.Load(); n != 0 {
			t.Errorf("%s: the provider was asked %d times", want, n)
		}
	}
}

// For the race detector: all that uses a provider goes on while it is reconfigured, taken out and put back.
func TestProvidersAreReplacedAllTheTime(t *testing.T) {
	var n atomic.Int64
	h, _, r := refreshed(t, func(w http.ResponseWriter, _ *http.Request) { writeTokens(w, int(n.Add(1)), "") }, func(c *Config) { c.Revalidation.Every = time.Second })
	ps, first := r.Providers, *r.Providers.All()[0].config()
	l := NewLogins(LoginsConfig{Providers: ps, Vault: r.Vault, Log: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, part := range []func(){
		func() { _ = ps.Run(ctx) }, func() { _ = r.Run(ctx) },
		func() {
			for ctx.Err() == nil {
				r.Ask(ctx, all)
				if p := ps.named("hostile"); p != nil {
					_, _ = p.exchange(ctx, "code", "", newSecrets(""))
					_ = p.Revoke(ctx, &Tokens{Refresh: []byte("r")})
				}
				_, _ = l.Begin(session.Key{1}, netip.Addr{}, api.LoginRequest{Provider: "hostile", Redirect: "http://127.0.0.1:1/", State: "12345678"}, nil)
			}
		},
	} {
		running.Go(part)
	}
	for i := range 60 {
		configs := []Config{first}
		switch i % 3 {
		case 0:
			configs[0].ClientSecret = "other"
		case 1:
			configs[0].CA = selfsigned.PEM(t, "ca.example")
		case 2:
			configs[0].Issuer += "/"
		}
		take, err := ps.Prepare(configs)
		if err != nil {
			t.Fatal(err)
		}
		take()
		time.Sleep(5 * time.Millisecond)
	}
	take, err := ps.Prepare([]Config{first})
	if err != nil {
		t.Fatal(err)
	}
	take()
	waitFor(t, ps.All()[0].Ready)
	if ps.All()[0].meta.Load().cfg.Issuer != h.URL {
		t.Error("what is known is of another issuer")
	}
	stop()
	running.Wait()
}
