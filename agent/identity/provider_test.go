// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

func TestConfigValidate(t *testing.T) {
	good := Config{Name: "corp", Issuer: "https://idp.example", ClientID: "us", RedirectURL: "https://agent:8443/callback/corp"}
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"good", func(*Config) {}, ""},
		{"http to loopback", func(c *Config) { c.Issuer = "http://127.0.0.1:80" }, ""},
		{"name", func(c *Config) { c.Name = "Corp/.." }, "name"},
		{"client", func(c *Config) { c.ClientID = "" }, "client_id"},
		{"http issuer", func(c *Config) { c.Issuer = "http://idp.example" }, "issuer"},
		{"issuer with user", func(c *Config) { c.Issuer = "https://a@idp.example" }, "issuer"},
		{"no issuer", func(c *Config) { c.Issuer = "" }, "issuer"},
		{"http redirect", func(c *Config) { c.RedirectURL = "http://agent/callback" }, "redirect_url"},
		{"symmetric algorithm", func(c *Config) { c.Algorithms = []string{"HS256"} }, "algorithms"},
		{"no algorithm", func(c *Config) { c.Algorithms = []string{"none"} }, "algorithms"},
	} {
		c := good
		tc.change(&c)
		err := c.Validate()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want %q", tc.name, err, tc.want)
		}
	}
}

func TestDiscoveryRefusesInsecureEndpoints(t *testing.T) {
	for _, endpoint := range []string{"authorization_endpoint", "token_endpoint", "jwks_uri", "revocation_endpoint", "device_authorization_endpoint"} {
		h := newHostile(t)
		h.discovery = func(doc map[string]any) { doc[endpoint] = "http://elsewhere.example/x" }
		p, err := NewProvider(Config{Name: "x", Issuer: h.URL, ClientID: "us", RedirectURL: "https://a/callback"}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.discover(t.Context()); err == nil || p.Ready() {
			t.Errorf("%s over plain http was accepted", endpoint)
		}
	}
}

func TestProviderAnswersAreBounded(t *testing.T) {
	h := newHostile(t)
	p := h.provider(t, nil)
	for name, answer := range map[string]http.HandlerFunc{
		"endless": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for chunk := []byte(strings.Repeat(" ", 1<<16)); r.Context().Err() == nil; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:9/", http.StatusTemporaryRedirect)
		},
		"no token": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) },
		"no ID token": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"access_token":"a","token_type":"bearer"}`))
		},
		"error with a secret": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error":"invalid_grant","error_description":"SECRET"}`))
		},
	} {
		h.token = answer
		_, err := p.exchange(t.Context(), "code", "", newSecrets(""))
		if err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClientAuthentication(t *testing.T) {
	for _, tc := range []struct {
		secret    string
		supported []string
		basic     bool
	}{
		{"s", nil, true},
		{"s", []string{"client_secret_post"}, false},
		{"s", []string{"client_secret_post", "client_secret_basic"}, true},
		{"", []string{"client_secret_basic"}, false},
	} {
		h := newHostile(t)
		if tc.supported != nil {
			h.discovery = func(doc map[string]any) { doc["token_endpoint_auth_methods_supported"] = tc.supported }
		}
		p := h.provider(t, func(c *Config) { c.ClientSecret = tc.secret })
		requests := 0
		h.token = func(w http.ResponseWriter, r *http.Request) {
			requests++
			if _, _, basic := r.BasicAuth(); basic != tc.basic {
				t.Errorf("%+v: basic = %v", tc, basic)
			}
			w.WriteHeader(http.StatusUnauthorized)
		}
		if _, err := p.exchange(t.Context(), "code", "", newSecrets("")); err == nil || requests != 1 {
			t.Errorf("%+v: %v after %d requests; want one try, as it may use up the code", tc, err, requests)
		}
	}
}

func TestGroupsClaim(t *testing.T) {
	for _, tc := range []struct {
		claim, payload string
		want           []string
		fails          bool
	}{
		{"groups", `{"groups":["a","b"]}`, []string{"a", "b"}, false},
		{"groups", `{"groups":"a"}`, []string{"a"}, false},
		{"groups", `{}`, nil, false},
		{"https://x.example/groups", `{"https://x.example/groups":["a"]}`, []string{"a"}, false},
		{"/realm_access/roles", `{"realm_access":{"roles":["a"]}}`, []string{"a"}, false},
		{"/realm_access/roles", `{"realm_access":7}`, nil, true},
		{"/realm_access/roles", `{"realm_access":{"roles":["a"],"Roles":["b"]}}`, nil, true},
		{"/a~1b", `{"a/b":["x"]}`, []string{"x"}, false},
		{"groups", `{"_claim_names":{"groups":"src1"}}`, nil, true},
		{"groups", `{"_claim_names":{"address":"src1"}}`, nil, false},
		{"groups", `{"groups":[1]}`, nil, true},
	} {
		c, err := jose.ParseClaims([]byte(tc.payload))
		if err != nil {
			t.Fatal(err)
		}
		got, err := groupsOf(c, tc.claim)
		if (err != nil) != tc.fails || !slices.Equal(got, tc.want) {
			t.Errorf("groups(%s) of %s = %q, %v", tc.claim, tc.payload, got, err)
		}
	}
}

func TestTokensWipe(t *testing.T) {
	tokens := Tokens{Refresh: []byte("secret"), Access: []byte("secret"), IDToken: []byte("secret")}
	kept := [][]byte{tokens.Refresh, tokens.Access, tokens.IDToken}
	tokens.Wipe()
	for _, b := range kept {
		if string(b) != strings.Repeat("\x00", 6) {
			t.Errorf("wiped token is %q", b)
		}
	}
	if !tokens.Empty() || tokens.IDToken != nil {
		t.Error("tokens are left")
	}
	tokens.Access = []byte("secret")
	if b, _ := json.Marshal(map[string]string{"a": tokens.String(), "b": tokens.GoString()}); strings.Contains(string(b), "secret") {
		t.Error("tokens print themselves")
	}
}

// runVault runs v until the test ends.
func runVault(t *testing.T, v *Vault) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = v.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func TestVault(t *testing.T) {
	h := newHostile(t)
	p := h.provider(t, nil)
	v := NewVault(slog.New(slog.DiscardHandler), nil)
	stop := runVault(t, v)

	put := func() (session.ID, []byte) {
		id, refresh := session.NewID(), []byte("refresh")
		v.Put(id, p, Tokens{Refresh: refresh})
		return id, refresh
	}
	id, refresh := put()
	if err := v.EndSession(t.Context(), id); err != nil || h.revoked.Load() != 1 || refresh[0] != 0 {
		t.Errorf("EndSession: %v, %d revoked, token %q", err, h.revoked.Load(), refresh)
	}
	if err := v.EndSession(t.Context(), id); err != nil || h.revoked.Load() != 1 {
		t.Errorf("EndSession again: %v, %d revoked", err, h.revoked.Load())
	}
	// The provider refuses at first; the vault goes on by itself.
	h.refuse.Store(1)
	id, _ = put()
	if err := v.EndSession(t.Context(), id); err == nil {
		t.Error("EndSession hides that the provider refused")
	}
	waitFor(t, func() bool { return h.revoked.Load() == 2 })
	id, _ = put()
	v.EndLater(id)
	waitFor(t, func() bool { return h.revoked.Load() == 3 })

	_, left := put()
	stop()
	if left[0] != 0 || len(v.held) != 0 {
		t.Error("tokens are left in memory after Run")
	}
}

func TestNoRevocationEndpoint(t *testing.T) {
	h := newHostile(t)
	h.discovery = func(doc map[string]any) { delete(doc, "revocation_endpoint") }
	v := NewVault(slog.New(slog.DiscardHandler), nil)
	id, refresh := session.NewID(), []byte("refresh")
	v.Put(id, h.provider(t, nil), Tokens{Refresh: refresh})
	if err := v.EndSession(t.Context(), id); !errors.Is(err, ErrCannotRevoke) || refresh[0] != 0 || v.toRevoke() != 0 {
		t.Errorf("EndSession: %v, token %q, %d queued", err, refresh, v.toRevoke())
	}
}

// TestTokensThatAreNotRevoked keeps out tokens that stay in memory for minutes, and a user who is told that the provider has not
// confirmed, because access tokens cannot be revoked there.
func TestTokensThatAreNotRevoked(t *testing.T) {
	both, access := Tokens{Refresh: []byte("refresh"), Access: []byte("access")}, Tokens{Access: []byte("access")}
	for name, tc := range map[string]struct {
		tokens  Tokens
		cannot  []string
		refuse  int64
		want    string // in the error; empty: it is said to be revoked
		revoked int64
	}{
		"access tokens":     {both, []string{"access_token"}, 0, "", 1},
		"refresh tokens":    {both, []string{"refresh_token"}, 0, "cannot revoke", 1},
		"either":            {both, []string{"refresh_token", "access_token"}, 0, "cannot revoke", 0},
		"all that there is": {access, []string{"access_token"}, 0, "cannot revoke", 0},
		"none for now":      {both, nil, 1, "503", 0},
	} {
		h := newHostile(t)
		h.cannot = tc.cannot
		h.refuse.Store(tc.refuse)
		tokens := tc.tokens.clone()
		err := h.provider(t, nil).Revoke(t.Context(), &tokens)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) || h.revoked.Load() != tc.revoked {
			t.Errorf("%s: %v, %d revoked", name, err, h.revoked.Load())
		}
		if again := err != nil && !errors.Is(err, ErrCannotRevoke); tokens.Empty() == again {
			t.Errorf("%s: to be tried again: %v, wiped: %v", name, again, tokens.Empty())
		}
	}
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 20 s")
		}
	}
}
