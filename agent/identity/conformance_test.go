// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/oauth2"

	"github.com/curfew-proxy/curfew/test/jwt"
)

// What follows is named for the modules of the OpenID conformance suite's plans for relying parties, and asks of us what they
// ask, of a client that uses the code flow and client_secret_basic: the provider misbehaves as in the module. Plans: basic,
// config, dynamic, refreshtoken, test (which is no certification), logout. Of the modules that are not in these files,
//
//	elsewhere   rp-backchannel-rpinitlogout*: TestLogoutTokens. rp-init-logout*: test/oidc, TestSignOutAtTheProvider.
//	            rp-frontchannel-*: TestFrontChannelLogout.
//	not here    discovery-webfinger-*: issuers are configured. dynamic-registration: so are clients. 3rd-party-init-login:
//	            only who holds a client key begins a sign-in, see TestLinkSentToVictim. request-uri-*: we send no request
//	            objects. missing-athash, nonce-unless-code-flow, *-chash: of the hybrid and implicit flows. formpost-*: of
//	            response_mode form_post. userinfo-bearer-body: one of the two ways is enough. userinfo-signed: not asked
//	            for. mtls-endpoint-aliases: of another client authentication. aggregated-claims and distributed-claims:
//	            optional, and refused where they hold the groups, see TestIDTokens. session-management: needs a page of
//	            ours that stays open. signing-algorithms: see oidcc-client-test-idtoken-sig-*.

// suite is the provider that the modules are about: hostile, with keys and a userinfo endpoint that a module can change.
type suite struct {
	*hostile
	other    *httptest.Server
	keys     func() []byte // the JWK Set
	userinfo http.HandlerFunc
	idToken  func(nonce string) string
	fetched  atomic.Int64 // times that the keys were
}

func newSuite(t *testing.T) *suite {
	s := &suite{hostile: newHostile(t)}
	mux := http.NewServeMux()
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		s.fetched.Add(1)
		_, _ = w.Write(s.keys()) // who asked may be gone
	})
	mux.HandleFunc("/userinfo", func(w http.ResponseWriter, r *http.Request) { s.userinfo(w, r) })
	s.other = httptest.NewServer(mux)
	t.Cleanup(s.other.Close)
	return s
}

// behave makes the provider one that does nothing wrong.
func (s *suite) behave(t *testing.T) {
	s.fetched.Store(0)
	s.discovery = func(doc map[string]any) {
		doc["jwks_uri"], doc["userinfo_endpoint"] = s.other.URL+"/keys", s.other.URL+"/userinfo"
	}
	s.keys = func() []byte { return jwt.Set(s.key) }
	s.userinfo = func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("userinfo was asked: %s", r.Header.Get("Authorization"))
	}
	s.idToken = func(nonce string) string { return s.sign(t, nonce, nil) }
}

// sign returns an ID token, a good one but for what change does to it.
func (s *suite) sign(t *testing.T, nonce string, change func(claims, header map[string]any)) string {
	claims, header := s.goodClaims(), map[string]any{"alg": "RS256", "kid": "k"}
	claims["nonce"] = nonce
	if change != nil {
		change(claims, header)
	}
	return s.key.Sign(t, header, encodeJSON(t, claims))
}

// signIn goes the whole way as the suite does: it looks at the authorization request and at the token request, and answers.
func (s *suite) signIn(t *testing.T, p *Provider) (SignIn, error) {
	t.Helper()
	mine := newSecrets("")
	to, err := p.authURL(mine, nil)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if q.Get("response_type") != "code" || q.Get("client_id") != "us" || q.Get("redirect_uri") != p.config().RedirectURL ||
		!strings.HasPrefix(q.Get("scope"), "openid") || len(q.Get("state")) != 43 || len(q.Get("nonce")) != 43 || q.Get("code_challenge_method") != "S256" {
		t.Errorf("authorization request: %v", q)
	}
	s.token = func(w http.ResponseWriter, r *http.Request) {
		if id, secret, basic := r.BasicAuth(); !basic || id != "us" || secret != url.QueryEscape(p.config().ClientSecret) || r.FormValue("client_secret") != "" {
			t.Errorf("client authentication: %v, %q %q; form %v", basic, id, secret, r.Form)
		}
		if r.FormValue("grant_type") != "authorization_code" || r.FormValue("code") != "the code" || r.FormValue("redirect_uri") != q.Get("redirect_uri") ||
			oauth2.S256ChallengeFromVerifier(r.FormValue("code_verifier")) != q.Get("code_challenge") {
			t.Errorf("token request: %v", r.Form)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"access","token_type":"Bearer","expires_in":60,"id_token":%q}`, s.idToken(q.Get("nonce")))
	}
	return p.exchange(t.Context(), "the code", "", mine)
}

// must checks the outcome of a sign-in: want is in the error, or empty where the module has us accept.
func must(t *testing.T, in SignIn, err error, want string) {
	t.Helper()
	switch {
	case want == "" && (err != nil || in.Identity.Subject != "alice"):
		t.Errorf("refused: %+v, %v", in.Identity, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%+v, %v; want an error with %q", in.Identity, err, want)
	case want != "" && in.Identity.Subject != "":
		t.Errorf("refused, and yet it is %+v", in.Identity)
	}
}

// withoutKid returns the set of keys without their kids.
func withoutKid(t *testing.T, keys ...*jwt.Key) []byte {
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(jwt.Set(keys...), &set); err != nil {
		t.Fatal(err)
	}
	for _, k := range set.Keys {
		delete(k, "kid")
	}
	return []byte(encodeJSON(t, set))
}
