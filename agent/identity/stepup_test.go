// SPDX-License-Identifier: Apache-2.0

package identity

import (
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

func TestDemandAsksTheProvider(t *testing.T) {
	now := time.Now()
	old := session.Identity{ACR: "pwd", AMR: []string{"pwd"}, AuthTime: now.Add(-time.Hour)}
	p := newHostile(t).provider(t, nil)
	for _, tc := range []struct {
		name                string
		require             session.Requirement
		acr, maxAge, prompt string
	}{
		{"nothing", session.Requirement{}, "", "", ""},
		{"acr", session.Requirement{ACR: []string{"mfa", "phr"}}, "mfa phr", "", ""},
		{"fresh enough", session.Requirement{MaxAge: 2 * time.Hour}, "", "7200", ""},
		{"too old", session.Requirement{MaxAge: 15 * time.Minute}, "", "900", "login"},
		{"amr is there", session.Requirement{AMR: []string{"pwd"}}, "", "", ""},
		{"amr is not", session.Requirement{AMR: []string{"otp"}}, "", "", "login"},
		{"all", session.Requirement{ACR: []string{"mfa"}, AMR: []string{"otp"}, MaxAge: time.Minute}, "mfa", "60", "login"},
	} {
		to, err := p.authURL(newSecrets(""), demandOf("db", tc.require, old, now))
		u, parseErr := url.Parse(to)
		if err != nil || parseErr != nil {
			t.Fatal(err, parseErr)
		}
		q := u.Query()
		if q.Get("acr_values") != tc.acr || q.Get("max_age") != tc.maxAge || q.Get("prompt") != tc.prompt || q.Get("nonce") == "" || q.Get("code_challenge_method") != "S256" {
			t.Errorf("%s: %v", tc.name, q)
		}
	}
}

// TestDemandIsVerified: a provider that signs somebody in, but not as it was asked to, makes no session.
func TestDemandIsVerified(t *testing.T) {
	require := session.Requirement{ACR: []string{"mfa", "phr"}, AMR: []string{"otp"}, MaxAge: 15 * time.Minute}
	good := func(c map[string]any) {
		c["acr"], c["amr"], c["auth_time"] = "phr", []string{"pwd", "otp"}, time.Now().Unix()-60
	}
	for _, tc := range []struct {
		name   string
		change func(map[string]any)
		want   string // what is told; empty: signed in
	}{
		{"as asked", func(map[string]any) {}, ""},
		{"no acr", func(c map[string]any) { delete(c, "acr") }, `acr is ""`},
		{"weaker acr", func(c map[string]any) { c["acr"] = "pwd" }, "not one of mfa, phr"},
		{"several acr", func(c map[string]any) { c["acr"] = "mfa phr" }, "acr is"},
		{"list of acr", func(c map[string]any) { c["acr"] = []string{"mfa"} }, "acr"},
		{"no amr", func(c map[string]any) { delete(c, "amr") }, "amr lacks otp"},
		{"no auth_time", func(c map[string]any) { delete(c, "auth_time") }, "auth_time"},
		{"auth_time is zero", func(c map[string]any) { c["auth_time"] = 0 }, "ago"},
		{"old auth_time", func(c map[string]any) { c["auth_time"] = time.Now().Unix() - 17*60 }, "more than 15m0s"},
		{"auth_time within the leeway", func(c map[string]any) { c["auth_time"] = time.Now().Unix() - 15*60 - 50 }, ""},
		{"auth_time in the future", func(c map[string]any) { c["auth_time"] = time.Now().Unix() + 600 }, "future"},
		{"text as auth_time", func(c map[string]any) { c["auth_time"] = "now" }, "auth_time"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, table := newHostile(t), &oneSession{}
			log := slog.New(slog.NewTextHandler(t.Output(), nil))
			vault := NewVault(log, nil)
			runVault(t, vault)
			l := NewLogins(LoginsConfig{Providers: providersOf(h.provider(t, nil)), Sessions: table, Vault: vault, Log: log})
			started, err := l.Begin(session.Key{1}, netip.Addr{}, api.LoginRequest{Redirect: "http://127.0.0.1:1/", State: "12345678"},
				demandOf("db", require, session.Identity{}, time.Now()))
			if err != nil {
				t.Fatal(err)
			}
			to, err := l.Open(started.URL[strings.LastIndex(started.URL, "/")+1:], "browser")
			if err != nil {
				t.Fatal(err)
			}
			asked, _ := url.Parse(to)
			h.token = func(w http.ResponseWriter, _ *http.Request) {
				c := h.goodClaims()
				good(c)
				tc.change(c)
				c["nonce"] = asked.Query().Get("nonce")
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(`{"access_token":"access","refresh_token":"refresh","token_type":"Bearer","id_token":"` +
					h.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, marshal(t, c)) + `"}`))
			}
			end, err := l.Callback(t.Context(), callback{code: "code", state: asked.Query().Get("state"), browser: "browser"})
			if err != nil {
				t.Fatal(err)
			}
			u, _ := url.Parse(end)
			q := u.Query()
			if tc.want == "" {
				if _, err := l.Complete(t.Context(), session.Key{1}, q.Get("code")); err != nil || table.made.Load() != 1 {
					t.Errorf("%v, complete: %v", q, err)
				}
				return
			}
			if q.Get("code") != "" || !strings.Contains(q.Get("error_description"), tc.want) {
				t.Errorf("the client is told %v", q)
			}
			waitFor(t, func() bool { return h.revoked.Load() == 2 })
		})
	}
}
