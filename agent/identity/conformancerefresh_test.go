// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// refresh asks s, which gives an ID token or, if it is empty, answers at its userinfo endpoint, about alice.
func (s *suite) refresh(t *testing.T, p *Provider, idToken string) (Tokens, session.Identity, error) {
	t.Helper()
	s.token = func(w http.ResponseWriter, r *http.Request) {
		if _, _, basic := r.BasicAuth(); !basic || r.FormValue("grant_type") != "refresh_token" || r.FormValue("refresh_token") != "refresh-token-0" {
			t.Errorf("refresh request: basic %v, %v", basic, r.Form)
		}
		writeTokens(w, 1, idToken)
	}
	first := s.sign(t, testNonce, nil)
	return p.refresh(t.Context(), Tokens{Refresh: []byte("refresh-token-0"), IDToken: []byte(first)}, s.alice())
}

func (s *suite) alice() session.Identity {
	return session.Identity{Issuer: s.URL, Subject: "alice", Groups: []string{"dba"}, ACR: "2", AuthTime: time.Unix(1000, 0)}
}

// TestConformanceRefresh has the modules of the refreshtoken plan, down to what they ask of us: that the session stays whose
// it was. What becomes of it is in TestRevalidationOutcomes.
func TestConformanceRefresh(t *testing.T) {
	s := newSuite(t)
	type m = map[string]any
	set := func(k string, v any) func(m, m) { return func(c, _ m) { c[k] = v } }
	for _, tc := range []struct {
		module string
		change func(claims, header m)
		want   string
	}{
		{"oidcc-client-test-refresh-token", nil, ""},
		{"oidcc-client-test-refresh-token-invalid-issuer", set("iss", "https://else.example"), "different provider"},
		{"oidcc-client-test-refresh-token-invalid-sub", set("sub", "mallory"), "the session is of"},
		{"oidcc-client-test-refresh-token-invalid-aud", set("aud", "them"), "audience"},
		{"oidcc-client-test-refresh-token-invalid-azp", set("azp", "them"), "azp"},
		{"sub by case", set("sub", "Alice"), "the session is of"},
		{"sub twice", set("Sub", "mallory"), "same but for case"},
		{"no iat", func(c, _ m) { delete(c, "iat") }, "iat is missing"},
		{"alg none", func(_, head m) { head["alg"] = "none" }, "algorithm"},
		{"eight megabytes", set("name", strings.Repeat("a", 8<<20)), "refresh"},
		{"of another sign-in", set("nonce", "another"), "nonce"},
	} {
		t.Run(tc.module, func(t *testing.T) {
			s.behave(t)
			_, who, err := s.refresh(t, s.provider(t, nil), s.sign(t, testNonce, tc.change))
			if tc.want == "" {
				if err != nil || who.Subject != "alice" {
					t.Errorf("%+v, %v", who, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || !reflect.DeepEqual(who, s.alice()) {
				t.Errorf("%+v, %v; want %q, and nothing of it taken over", who, err, tc.want)
			}
		})
	}
}

// TestConformanceUserInfo has the modules about userinfo. It is asked only where a refresh gives no ID token: what a sign-in
// says is all in the first.
func TestConformanceUserInfo(t *testing.T) {
	s := newSuite(t)
	const good = `{"sub":"alice","name":"Alice B.","email":"alice@example.com","groups":["staff"]}`
	for _, tc := range []struct {
		module, kind, body, want string
	}{
		{"oidcc-client-test-userinfo-bearer-header", "application/json", good, ""},
		{"oidcc-client-test-scope-userinfo-claims", "application/json; charset=utf-8", good, ""},
		{"oidcc-client-test-userinfo-invalid-sub", "application/json", `{"sub":"aliceinvalid","groups":["root"]}`, "the session is of"},
		{"no sub", "application/json", `{"groups":["root"]}`, "sub is missing"},
		{"sub is null", "application/json", `{"sub":null,"groups":["root"]}`, "sub is missing"},
		{"sub by case", "application/json", `{"Sub":"alice","groups":["root"]}`, "sub is missing"},
		{"sub twice", "application/json", `{"sub":"alice","sub":"mallory"}`, "same but for case"},
		{"groups twice, but for case", "application/json", `{"sub":"alice","groups":[],"Groups":["root"]}`, "same but for case"},
		{"two objects", "application/json", good + good, "followed by more"},
		{"a page", "text/html", good, "text/html"},
		{"signed, which we did not ask for", "application/jwt", "a.b.c", "application/jwt"},
		{"eight megabytes", "application/json", `{"sub":"alice","x":"` + strings.Repeat("a", 8<<20) + `"}`, "userinfo"},
	} {
		t.Run(tc.module, func(t *testing.T) {
			s.behave(t)
			s.userinfo = func(w http.ResponseWriter, r *http.Request) {
				if r.Method != "GET" || r.Header.Get("Authorization") != "Bearer access-token-1" || r.URL.RawQuery != "" {
					t.Errorf("userinfo request: %s %s %q", r.Method, r.URL, r.Header.Get("Authorization"))
				}
				w.Header().Set("Content-Type", tc.kind)
				_, _ = w.Write([]byte(tc.body)) // we hang up on megabytes
			}
			p := s.provider(t, nil)
			if want := []string{"openid", "profile", "email"}; !slices.Equal(p.config().Scopes, want) {
				t.Errorf("scopes %v, want %v", p.config().Scopes, want)
			}
			tokens, who, err := s.refresh(t, p, "")
			if string(tokens.Refresh) != "refresh-token-1" {
				t.Errorf("the rotated token is lost: %q", tokens.Refresh)
			}
			if tc.want == "" {
				if err != nil || who.Name != "Alice B." || who.Email != "alice@example.com" || !slices.Equal(who.Groups, []string{"staff"}) || who.ACR != "2" {
					t.Errorf("%+v, %v", who, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || !reflect.DeepEqual(who, s.alice()) {
				t.Errorf("%+v, %v; want %q, and nothing of it taken over", who, err, tc.want)
			}
		})
	}
	t.Run("a redirect", func(t *testing.T) {
		s.behave(t)
		asked := 0
		s.userinfo = func(w http.ResponseWriter, r *http.Request) {
			asked++
			http.Redirect(w, r, "/userinfo?again", http.StatusTemporaryRedirect)
		}
		if _, who, err := s.refresh(t, s.provider(t, nil), ""); err == nil || asked != 1 || !reflect.DeepEqual(who, s.alice()) {
			t.Errorf("asked %d times: %+v, %v", asked, who, err)
		}
	})
}
