// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// ended is an Ender that remembers.
type ended struct {
	mu   sync.Mutex
	who  []session.Match
	fail error
	none map[string]bool // sids that nothing is part of
}

func (e *ended) End(_ context.Context, who session.Match, _ session.End) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fail != nil {
		return 0, e.fail
	}
	e.who = append(e.who, who)
	if e.none[who.SID] {
		return 0, nil
	}
	return 1, nil
}

func (e *ended) taken() []session.Match {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := e.who
	e.who = nil
	return list
}

// logoutServer returns what serves the logouts of h's sessions, and what they end.
func logoutServer(t *testing.T, h *hostile, change func(*Config)) (*providerLogouts, *ended, http.Handler) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	ends := &ended{}
	l := &providerLogouts{ends: ends, logins: NewLogins(LoginsConfig{Providers: providersOf(h.provider(t, change)), Log: log, Vault: NewVault(log, nil)})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathBackChannel+"{provider}", l.backChannel)
	mux.HandleFunc("GET "+pathFrontChannel+"{provider}", l.frontChannel)
	return l, ends, mux
}

func encodeJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func postLogout(handler http.Handler, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", pathBackChannel+"hostile", strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func (h *hostile) logoutClaims(jti string) map[string]any {
	now := time.Now().Unix()
	return map[string]any{"iss": h.URL, "aud": "us", "iat": now, "exp": now + 120, "jti": jti, "sub": "alice", "sid": "s1",
		"events": map[string]any{logoutEvent: map[string]any{}}}
}

// The names are those of the modules of the OpenID conformance suite, where it has one.
func TestLogoutTokens(t *testing.T) {
	h := newHostile(t)
	_, ends, handler := logoutServer(t, h, nil)
	type m = map[string]any
	set := func(k string, v any) func(m, m) { return func(c, _ m) { c[k] = v } }
	del := func(names ...string) func(m, m) {
		return func(c, _ m) {
			for _, k := range names {
				delete(c, k)
			}
		}
	}
	head := func(k string, v any) func(m, m) { return func(_, head m) { head[k] = v } }
	now := time.Now().Unix()
	both, bySub := []session.Match{{Issuer: h.URL, SID: "s1"}}, []session.Match{{Issuer: h.URL, Subject: "alice"}}
	for _, tc := range []struct {
		name   string
		change func(claims, header m)
		want   string // in the error
		ends   []session.Match
	}{
		{"oidcc-client-test-rp-backchannel-rpinitlogout", func(m, m) {}, "", both},
		{"typ logout+jwt", head("typ", "logout+jwt"), "", both},
		{"no typ", func(_, head m) { delete(head, "typ") }, "", both},
		{"sid alone", del("sub"), "", both},
		{"sub alone", del("sid"), "", bySub},
		{"other events beside", set("events", m{logoutEvent: m{}, "https://other": m{"x": 1}}), "", both},
		{"oidcc-client-test-rp-backchannel-rpinitlogout-alg-none", head("alg", "none"), "algorithm", nil},
		{"oidcc-client-test-rp-backchannel-rpinitlogout-wrong-alg", head("alg", "HS256"), "algorithm", nil},
		{"oidcc-client-test-rp-backchannel-rpinitlogout-no-event", del("events"), "events", nil},
		{"oidcc-client-test-rp-backchannel-rpinitlogout-wrong-event", set("events", m{"http://schemas.openid.net/event/backchannel-logouts": m{}}), "has no object", nil},
		{"oidcc-client-test-rp-backchannel-rpinitlogout-with-nonce", set("nonce", "n"), "nonce", nil},
		{"a null nonce", set("nonce", nil), "nonce", nil},
		{"oidcc-client-test-rp-backchannel-rpinitlogout-wrong-aud", set("aud", "them"), "aud", nil},
		{"another audience beside us", set("aud", []string{"us", "them"}), "trusted audience", nil},
		{"oidcc-client-test-rp-backchannel-rpinitlogout-wrong-iss", set("iss", "https://else.example"), "iss", nil},
		{"event is text", set("events", m{logoutEvent: "yes"}), "has no object", nil},
		{"event is null", set("events", m{logoutEvent: nil}), "has no object", nil},
		{"events is a list", set("events", []string{logoutEvent}), "events", nil},
		{"neither sub nor sid", del("sub", "sid"), "sub is missing", nil},
		{"empty sub and no sid", func(c, _ m) { c["sub"] = ""; delete(c, "sid") }, "sub is missing", nil},
		{"empty sub beside sid", set("sub", ""), "sub is missing", nil},
		{"sid is a number", set("sid", 7), "sid", nil},
		{"sid is long", set("sid", strings.Repeat("s", 256)), "sid", nil},
		{"sid with a line break", set("sid", "s\n1"), "sid", nil},
		{"no jti", del("jti"), "jti", nil},
		{"empty jti", set("jti", ""), "jti", nil},
		{"no iat", del("iat"), "iat", nil},
		{"iat in the future", set("iat", now+3600), "in the future", nil},
		{"old iat", func(c, _ m) { c["iat"], c["exp"] = now-3600, now+60 }, "was issued", nil},
		{"no exp", del("exp"), "exp", nil},
		{"expired", func(c, _ m) { c["iat"], c["exp"] = now-60, now-1 }, "expired", nil},
		{"far exp", set("exp", now+7*86400), "expires", nil},
		{"an ID token's typ", head("typ", "at+jwt"), "type", nil},
		{"a security event's typ", head("typ", "secevent+jwt"), "type", nil},
		{"claims twice, but for case", set("ISS", "https://else.example"), "same but for case", nil},
		{"kid of nobody", head("kid", "nobody"), "key", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			claims, header := h.logoutClaims(tc.name), m{"alg": "RS256", "kid": "k", "typ": "JWT"}
			tc.change(claims, header)
			w := postLogout(handler, h.key.Sign(t, header, encodeJSON(t, claims)))
			if w.Header().Get("Cache-Control") != "no-store" {
				t.Error("the answer may be cached")
			}
			got := ends.taken()
			if len(tc.ends) > 0 {
				if w.Code != http.StatusOK || len(got) != 1 || got[0] != tc.ends[0] {
					t.Errorf("%d %s, ended %+v", w.Code, w.Body, got)
				}
				return
			}
			if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), tc.want) || len(got) != 0 {
				t.Errorf("%d %s, ended %+v; want %q", w.Code, w.Body, got, tc.want)
			}
		})
	}
}

// TestLogoutOfASessionThatWasNeverNamed keeps out a logout that says yes and ends nothing: the provider's ID tokens had no
// sid, or not yet, and its logout tokens have one.
func TestLogoutOfASessionThatWasNeverNamed(t *testing.T) {
	h := newHostile(t)
	_, ends, handler := logoutServer(t, h, nil)
	ends.none = map[string]bool{"s1": true}
	bySID, unnamed := session.Match{Issuer: h.URL, SID: "s1"}, session.Match{Issuer: h.URL, Subject: "alice", Unnamed: true}
	for name, tc := range map[string]struct {
		sid  string
		sub  bool
		want []session.Match
	}{
		"with sub":    {"s1", true, []session.Match{bySID, unnamed}},
		"without sub": {"s1", false, []session.Match{bySID}},
		"one of ours": {"s2", true, []session.Match{{Issuer: h.URL, SID: "s2"}}},
	} {
		claims := h.logoutClaims(name)
		claims["sid"] = tc.sid
		if !tc.sub {
			delete(claims, "sub")
		}
		w := postLogout(handler, h.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, encodeJSON(t, claims)))
		if got := ends.taken(); w.Code != http.StatusOK || !slices.Equal(got, tc.want) {
			t.Errorf("%s: %d %s, ended %+v, want %+v", name, w.Code, w.Body, got, tc.want)
		}
	}
}

// Who sends many bad tokens is not answered for a while, nor logged; what the provider has signed is heeded all the same, also
// from there: an agent may see one address of all the world.
func TestLogoutTokensThatAreBadAreLimited(t *testing.T) {
	h := newHostile(t)
	_, ends, handler := logoutServer(t, h, nil)
	code := 0
	for range 100 {
		if code = postLogout(handler, "x.y.z").Code; code == http.StatusTooManyRequests {
			break
		}
	}
	if code != http.StatusTooManyRequests {
		t.Errorf("the hundredth bad token: %d", code)
	}
	good := h.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, encodeJSON(t, h.logoutClaims("1")))
	if w := postLogout(handler, good); w.Code != http.StatusOK || len(ends.taken()) != 1 {
		t.Errorf("a good one: %d %s", w.Code, w.Body)
	}
	if w := postLogout(handler, "x.y.z"); w.Code != http.StatusTooManyRequests {
		t.Errorf("a bad one after a good one: %d", w.Code)
	}
}

// TestLogoutWhenTheAgentHasJustStarted keeps out a logout that is lost because the agent, which has been restarted, does not yet
// know where the provider's keys are: the provider does not ask twice.
func TestLogoutWhenTheAgentHasJustStarted(t *testing.T) {
	h := newHostile(t)
	l, ends, handler := logoutServer(t, h, nil)
	p, err := NewProvider(*l.logins.cfg.Providers.All()[0].config(), l.logins.cfg.Log)
	if err != nil {
		t.Fatal(err)
	}
	l.logins.cfg.Providers = providersOf(p)
	token := h.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, encodeJSON(t, h.logoutClaims("1")))
	done := make(chan *httptest.ResponseRecorder)
	go func() { done <- postLogout(handler, token) }()
	if err := p.discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w := <-done; w.Code != http.StatusOK || len(ends.taken()) != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestLogoutRequests(t *testing.T) {
	h := newHostile(t)
	_, ends, handler := logoutServer(t, h, nil)
	token := h.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, encodeJSON(t, h.logoutClaims("1")))
	ends.fail = errors.New("disk full")
	if w := postLogout(handler, token); w.Code != http.StatusBadRequest {
		t.Errorf("a logout that failed: %d", w.Code)
	}
	ends.fail = nil
	if w := postLogout(handler, token); w.Code != http.StatusOK || len(ends.taken()) != 1 {
		t.Errorf("the same again: %d %s", w.Code, w.Body)
	}
	if w := postLogout(handler, token); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "used before") || len(ends.taken()) != 0 {
		t.Errorf("a replay: %d %s", w.Code, w.Body)
	}
	form := "application/x-www-form-urlencoded"
	for name, tc := range map[string]struct{ path, kind, body string }{
		"no token":           {pathBackChannel + "hostile", form, "a=b"},
		"two tokens":         {pathBackChannel + "hostile", form, "logout_token=a&logout_token=b"},
		"JSON":               {pathBackChannel + "hostile", "application/json", `{"logout_token":"a"}`},
		"eight megabytes":    {pathBackChannel + "hostile", form, "logout_token=" + strings.Repeat("a", 8<<20)},
		"of another's token": {pathBackChannel + "nobody", form, url.Values{"logout_token": {token}}.Encode()},
		"in the query":       {pathBackChannel + "hostile?logout_token=" + token, form, ""},
	} {
		r := httptest.NewRequest("POST", tc.path, strings.NewReader(tc.body))
		r.Header.Set("Content-Type", tc.kind)
		w := httptest.NewRecorder()
		if handler.ServeHTTP(w, r); w.Code != http.StatusBadRequest || len(ends.taken()) != 0 {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// TestFrontChannelLogout has the module oidcc-client-test-rp-frontchannel-rpinitlogout, and what is to be refused.
func TestFrontChannelLogout(t *testing.T) {
	h := newHostile(t)
	_, ends, handler := logoutServer(t, h, func(c *Config) { c.FrontChannelLogout = true })
	_, offEnds, off := logoutServer(t, h, nil)
	get := func(handler http.Handler, q url.Values) int {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", pathFrontChannel+"hostile?"+q.Encode(), nil))
		return w.Code
	}
	good := url.Values{"iss": {h.URL}, "sid": {"s1"}}
	if code := get(handler, good); code != http.StatusOK || len(ends.taken()) != 1 {
		t.Errorf("good: %d", code)
	}
	for range 100 {
		get(handler, url.Values{})
	}
	if code := get(handler, good); code != http.StatusTooManyRequests || len(ends.taken()) != 0 {
		t.Errorf("after a hundred bad ones: %d", code)
	}
	_, ends, handler = logoutServer(t, h, func(c *Config) { c.FrontChannelLogout = true })
	if code := get(off, good); code != http.StatusNotFound || len(offEnds.taken()) != 0 {
		t.Errorf("switched off: %d", code)
	}
	for name, q := range map[string]url.Values{"nothing": {}, "no sid": {"iss": {h.URL}}, "no iss": {"sid": {"s1"}},
		"another iss": {"iss": {"https://else.example"}, "sid": {"s1"}}, "two sids": {"iss": {h.URL}, "sid": {"s1", "s2"}}, "empty sid": {"iss": {h.URL}, "sid": {""}}} {
		if code := get(handler, q); code != http.StatusBadRequest || len(ends.taken()) != 0 {
			t.Errorf("%s: %d", name, code)
		}
	}
}

func FuzzLogoutToken(f *testing.F) {
	f.Add([]byte(`{"events":{"` + logoutEvent + `":{}},"jti":"j","sub":"s","sid":"x"}`))
	f.Add([]byte(`{"events":{"` + logoutEvent + `":null},"jti":"j","nonce":1}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := jose.ParseClaims(payload)
		if err != nil {
			return
		}
		if got, err := readLogout(c, "i"); err == nil && (got.jti == "" || got.who.Check() != nil) {
			t.Errorf("%s: it ends nobody, or everybody: %+v", payload, got)
		}
	})
}
