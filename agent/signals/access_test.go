// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// issuing adds an authorization server to the rig. It returns how many tokens were issued.
func (g *rig) issuing(life any) *atomic.Int32 {
	var issued atomic.Int32
	g.mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		id, secret, ok := r.BasicAuth()
		if err := r.ParseForm(); err != nil || !ok || id != "us%3A" || secret != "s%26t" || r.PostForm.Get("grant_type") != "client_credentials" ||
			r.PostForm.Get("scope") != "ssf.manage" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, encode(g.t, object{"access_token": fmt.Sprint("token", issued.Add(1)), "token_type": "bearer", "expires_in": life}))
	})
	g.cfg.Access = Access{TokenEndpoint: g.server.URL + "/token", ClientID: "us:", ClientSecret: "s&t", Scope: "ssf.manage"}
	return &issued
}

func (g *rig) tokens() *accessTokens {
	return newAccessTokens(g.cfg.Access, g.receiver().client, g.clock.now)
}

func TestAccessTokens(t *testing.T) {
	g := newRig(t)
	issued := g.issuing(600)
	a := g.tokens()
	get := func(want string) {
		t.Helper()
		if token, err := a.get(t.Context()); err != nil || token != want {
			t.Errorf("%q, %v; want %q", token, err, want)
		}
	}
	get("token1")
	get("token1")
	g.clock.add(569 * time.Second)
	get("token1")
	g.clock.add(2 * time.Second)
	get("token2") // before it expires
	a.forget("token1")
	get("token2")
	a.forget("token2")
	var group sync.WaitGroup
	for range 10 { // at once: one asks for all
		group.Go(func() { get("token3") })
	}
	group.Wait()
	if n := issued.Load(); n != 3 {
		t.Errorf("%d tokens were issued", n)
	}
}

func TestLifeOfAccessTokens(t *testing.T) {
	for life, want := range map[any]time.Duration{600: 570 * time.Second, 40: 20 * time.Second, 0: unknownLife, -1: unknownLife,
		"600": unknownLife, 1.5: unknownLife, 1 << 60: unknownLife, nil: unknownLife} {
		g := newRig(t)
		g.issuing(life)
		a := g.tokens()
		if _, err := a.get(t.Context()); err != nil || a.expires.Sub(g.clock.now()) != want {
			t.Errorf("%v: %v, %v; want %v", life, a.expires.Sub(g.clock.now()), err, want)
		}
	}
}

func TestAccessRefused(t *testing.T) {
	answers := map[string]string{"no JSON": "x", "no token": `{"token_type":"Bearer"}`, "MAC": `{"access_token":"a","token_type":"mac"}`,
		"line break": `{"access_token":"a\nb","token_type":"Bearer"}`, "number": `{"access_token":1,"token_type":"Bearer"}`,
		"two": `{"access_token":"a","Access_Token":"b","token_type":"Bearer"}`, "huge": strings.Repeat(" ", 2<<20)}
	g := newRig(t)
	g.cfg.Access = Access{TokenEndpoint: g.server.URL + "/bad", ClientID: "a", ClientSecret: "secret"}
	var answer string
	g.mux.HandleFunc("POST /bad", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) })
	for name, a := range answers {
		answer = a
		if token, err := g.tokens().get(t.Context()); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %q, %v", name, token, err)
		}
	}
	g.cfg.Access.TokenEndpoint = g.server.URL + "/nothing"
	if _, err := g.tokens().get(t.Context()); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("404: %v", err)
	}
}

// A token that has expired at the transmitter is replaced, and nothing is lost: openid-ssf-receiver-access-token-expiry.
func TestPollWithExpiringToken(t *testing.T) {
	g := newRig(t)
	o := g.outbox()
	o.hold = 50 * time.Millisecond
	issued := g.issuing(600)
	var expired atomic.Int32
	o.fault = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == fmt.Sprint("Bearer token", issued.Load()) && expired.Load() < issued.Load() {
			r.Header.Set("Authorization", "Bearer "+pollToken)
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	g.event(t, o, alice())
	g.polling()
	eventually(t, "the first event is acknowledged", func() bool { return o.left() == 0 })
	expired.Store(1)
	eventually(t, "a new token is used", func() bool { return issued.Load() == 2 })
	g.event(t, o, alice())
	eventually(t, "the second event is acknowledged", func() bool { return o.left() == 0 })
	if n := g.counts.of(PollFailed); n != 1 {
		t.Errorf("%d polls failed", n)
	}
}
