// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/test/jwt"
)

// hostile is a provider that issues whatever a test wants.
type hostile struct {
	*httptest.Server
	key       *jwt.Key
	revoked   atomic.Int64 // revocations confirmed
	refuse    atomic.Int64 // revocations to refuse first
	cannot    []string     // kinds of tokens that it does not revoke
	hold      func()       // called by each revocation; may be nil
	discovery func(doc map[string]any)
	token     http.HandlerFunc
	device    http.HandlerFunc
}

func newHostile(t *testing.T) *hostile {
	t.Helper()
	h := &hostile{key: jwt.NewKey(t, "k"), discovery: func(map[string]any) {}}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", h.serveDiscovery)
	mux.HandleFunc("/keys", jwt.Serve(h.key))
	mux.HandleFunc("/revoke", h.serveRevoke)
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) { h.token(w, r) })
	mux.HandleFunc("/device", func(w http.ResponseWriter, r *http.Request) { h.device(w, r) })
	h.Server = httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return h
}

func (h *hostile) serveDiscovery(w http.ResponseWriter, _ *http.Request) {
	doc := map[string]any{
		"issuer": h.URL, "authorization_endpoint": h.URL + "/auth", "token_endpoint": h.URL + "/token",
		"jwks_uri": h.URL + "/keys", "revocation_endpoint": h.URL + "/revoke",
		"device_authorization_endpoint":         h.URL + "/device",
		"id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"},
	}
	h.discovery(doc)
	_ = json.NewEncoder(w).Encode(doc)
}

func (h *hostile) serveRevoke(w http.ResponseWriter, r *http.Request) {
	if h.hold != nil {
		h.hold()
	}
	if h.refuse.Add(-1) >= 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if slices.Contains(h.cannot, r.PostFormValue("token_type_hint")) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"unsupported_token_type"}`))
		return
	}
	h.revoked.Add(1)
}

// provider returns our side of h, after discovery.
func (h *hostile) provider(t *testing.T, change func(*Config)) *Provider {
	t.Helper()
	cfg := Config{Name: "hostile", Issuer: h.URL, ClientID: "us", ClientSecret: "s", RedirectURL: "https://agent.example/callback/hostile"}
	if change != nil {
		change(&cfg)
	}
	p, err := NewProvider(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// providersOf are those that a configuration has.
func providersOf(list ...*Provider) *Providers {
	ps := &Providers{log: slog.New(slog.DiscardHandler)}
	ps.now.Store(&roll{list: list, replaced: make(chan struct{})})
	return ps
}

// toRevoke is how many grants wait to be revoked.
func (v *Vault) toRevoke() (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range v.lanes {
		n += len(l.queue)
	}
	return n
}

// reconfigure changes the configuration of the only provider, as a reload does.
func reconfigure(t *testing.T, ps *Providers, change func(*Config)) {
	t.Helper()
	c := *ps.All()[0].config()
	change(&c)
	take, err := ps.Prepare([]Config{c})
	if err != nil {
		t.Fatal(err)
	}
	take()
}

const testNonce = "the nonce of this sign-in"

// goodClaims are the claims of an ID token that must be accepted.
func (h *hostile) goodClaims() map[string]any {
	now := time.Now().Unix()
	return map[string]any{"iss": h.URL, "sub": "alice", "aud": "us", "nonce": testNonce, "iat": now, "exp": now + 60}
}

func TestIDTokens(t *testing.T) {
	h := newHostile(t)
	p := h.provider(t, nil)
	type m = map[string]any
	set := func(k string, v any) func(m, m) { return func(c, _ m) { c[k] = v } }
	del := func(k string) func(m, m) { return func(c, _ m) { delete(c, k) } }
	typ := func(v any) func(m, m) { return func(_, head m) { head["typ"] = v } }
	now := time.Now().Unix()
	for _, tc := range []struct {
		name   string
		change func(claims, header m)
		want   string // in the error; empty: accepted
	}{
		{"good", func(m, m) {}, ""},
		{"azp is us", set("azp", "us"), ""},
		{"audience in an array", set("aud", []string{"us"}), ""},
		{"typ is JWT", typ("JWT"), ""},
		{"typ is jwt", typ("application/jwt"), ""},
		{"iat a little ahead", set("iat", now+30), ""},
		{"no sub", del("sub"), "sub is missing"},
		{"empty sub", set("sub", ""), "sub is missing"},
		{"null sub", set("sub", nil), "sub is missing"},
		{"number as sub", set("sub", 7), "sub"},
		{"control character in sub", set("sub", "ali\x00ce"), "not printable"},
		{"line break in sub", set("sub", "alice\nadmin"), "not printable"},
		{"bidi override in sub", set("sub", "alice\u202enimda"), "not printable"},
		{"long sub", set("sub", strings.Repeat("a", 256)), "longer"},
		{"no iat", del("iat"), "iat is missing"},
		{"iat in the future", set("iat", now+3600), "in the future"},
		{"iat is text", set("iat", "now"), "number"},
		{"no exp", del("exp"), "expired"},
		{"expired", set("exp", now-1), "expired"},
		{"nbf a little ahead", set("nbf", now+30), ""},
		{"nbf is ahead", set("nbf", now+120), "not good before"},
		{"nbf is text", set("nbf", "now"), "number"},
		{"no nonce", del("nonce"), "nonce"},
		{"other nonce", set("nonce", "another"), "nonce"},
		{"number as nonce", set("nonce", 1), "nonce"},
		{"foreign azp", set("azp", "them"), "azp"},
		{"empty azp", set("azp", ""), "azp"},
		{"other audience", set("aud", "them"), "audience"},
		{"no audience", del("aud"), "audience"},
		{"several audiences", func(c, _ m) { c["aud"] = []string{"us", "them"}; c["azp"] = "us" }, "not a trusted audience"},
		{"other issuer", set("iss", "https://evil.example"), "different provider"},
		{"no issuer", del("iss"), "different provider"},
		{"access token", typ("at+jwt"), "type"},
		{"logout token", typ("logout+jwt"), "type"},
		{"security event", typ("secevent+jwt"), "type"},
		{"number as typ", typ(1), "typ"},
		{"ISS beside iss", set("ISS", "https://evil.example"), "same but for case"},
		{"Sub beside sub", set("Sub", "root"), "same but for case"},
		{"long s", set("i\u017fs", h.URL), "same but for case"},
		{"SUB only", func(c, _ m) { delete(c, "sub"); c["SUB"] = "root" }, "sub is missing"},
		{"alg none", func(_, head m) { head["alg"] = "none" }, "algorithm"},
		{"alg HS256", func(_, head m) { head["alg"] = "HS256" }, "algorithm"},
		{"unknown critical header", func(_, head m) { head["crit"] = []string{"x"}; head["x"] = 1 }, "verify"},
		{"too long", set("name", strings.Repeat("a", jose.MaxToken)), "longer"},
		{"wrong at_hash", set("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"), "access token"},
		{"groups is an object", set("groups", m{"a": 1}), "groups"},
		{"group is null", set("groups", []any{"a", nil}), "groups"},
		{"group with a line break", set("groups", []string{"a\nb"}), "group"},
		{"groups elsewhere", set("_claim_names", m{"groups": "src"}), "source"},
		{"amr is a number", set("amr", 1), "amr"},
		{"auth_time is text", set("auth_time", "x"), "auth_time"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			claims, header := h.goodClaims(), m{"alg": "RS256", "kid": "k"}
			tc.change(claims, header)
			payload, err := json.Marshal(claims)
			if err != nil {
				t.Fatal(err)
			}
			in, err := p.signedIn(t.Context(), p.meta.Load(), h.key.Sign(t, header, string(payload)), "access", testNonce)
			if tc.want == "" {
				if err != nil || in.Identity.Subject != "alice" || in.Identity.Issuer != h.URL {
					t.Errorf("verify = %+v, %v", in, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("verify: %v; want an error with %q", err, tc.want)
			}
		})
	}
}

// A token for several is taken if all the others are trusted, and it says that it was issued to us.
func TestTrustedAudiences(t *testing.T) {
	h := newHostile(t)
	p := h.provider(t, func(c *Config) { c.TrustedAudiences, c.Algorithms = []string{"project"}, []string{"RS256"} })
	type m = map[string]any
	for name, tc := range map[string]struct {
		aud  []string
		azp  string
		want string
	}{
		"us alone":         {[]string{"us"}, "", ""},
		"and the trusted":  {[]string{"project", "us"}, "us", ""},
		"to whom?":         {[]string{"project", "us"}, "", "azp"},
		"to the trusted":   {[]string{"project", "us"}, "project", "azp"},
		"the trusted only": {[]string{"project"}, "us", "audience"},
		"and a stranger":   {[]string{"project", "us", "them"}, "us", "not a trusted audience"},
	} {
		c := h.goodClaims()
		c["aud"] = tc.aud
		if tc.azp != "" {
			c["azp"] = tc.azp
		}
		_, err := p.signedIn(t.Context(), p.meta.Load(), h.key.Sign(t, m{"alg": "RS256", "kid": "k"}, encodeJSON(t, c)), "access", testNonce)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want %q", name, err, tc.want)
		}
	}
	if _, err := p.signedIn(t.Context(), p.meta.Load(), h.key.Sign(t, m{"alg": "PS256", "kid": "k"}, encodeJSON(t, h.goodClaims())), "access", testNonce); err == nil || !strings.Contains(err.Error(), "algorithm") {
		t.Errorf("an algorithm that is not in the configuration: %v", err)
	}
}

// TestGoOIDCStillNeedsUs documents why the checks above exist: were go-oidc to make them itself,
// they could go.
func TestGoOIDCStillNeedsUs(t *testing.T) {
	h := newHostile(t)
	p := h.provider(t, nil)
	payload := fmt.Sprintf(`{"iss":%q,"sub":"","aud":["us","them"],"azp":"them","exp":%d,"iat":%[2]d}`, h.URL, time.Now().Unix()+9999)
	tok := h.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k", "typ": "logout+jwt"}, payload)
	if _, err := p.meta.Load().verifier.Verify(oidc.ClientContext(t.Context(), p.settings.Load().client), tok); err != nil {
		t.Errorf("go-oidc refuses it now: %v", err)
	}
}

func TestDuplicateClaims(t *testing.T) {
	h := newHostile(t)
	p := h.provider(t, nil)
	good, err := json.Marshal(h.goodClaims())
	if err != nil {
		t.Fatal(err)
	}
	for _, extra := range []string{`"sub":"root"`, `"Nonce":"x"`, `"azp":"us","AZP":"them"`} {
		payload := strings.TrimSuffix(string(good), "}") + "," + extra + "}"
		tok := h.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, payload)
		if _, err := p.signedIn(t.Context(), p.meta.Load(), tok, "access", testNonce); err == nil {
			t.Errorf("%s was accepted", payload)
		}
	}
}
