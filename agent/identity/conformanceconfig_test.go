// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/test/jwt"
)

// TestConformanceDiscovery has the modules of the config and the dynamic plan about discovery.
func TestConformanceDiscovery(t *testing.T) {
	s := newSuite(t)
	t.Run("oidcc-client-test-discovery-openid-config", func(t *testing.T) {
		s.behave(t)
		usual := s.discovery
		s.discovery = func(doc map[string]any) { usual(doc); doc["authorization_endpoint"] = "https://login.example/a?b=c" }
		p := s.provider(t, nil)
		if to, err := p.authURL(newSecrets(""), nil); err != nil || !strings.HasPrefix(to, "https://login.example/a?b=c&") {
			t.Errorf("authorization request to %q, %v", to, err)
		}
		in, err := s.signIn(t, p)
		must(t, in, err, "")
	})
	t.Run("oidcc-client-test-discovery-jwks-uri-keys", func(t *testing.T) {
		s.behave(t)
		p := s.provider(t, nil)
		in, err := s.signIn(t, p)
		must(t, in, err, "")
		if s.fetched.Load() != 1 {
			t.Errorf("jwks_uri was asked %d times", s.fetched.Load())
		}
		s.discovery = func(doc map[string]any) { doc["jwks_uri"] = s.other.URL + "/nothing" } // it moves
		if err := p.discover(t.Context()); err != nil {
			t.Fatal(err)
		}
		in, err = s.signIn(t, p)
		must(t, in, err, "signing keys")
	})
	for name, issuer := range map[string]string{"": "https://else.example", ", by a slash": s.URL + "/", ", by case": strings.ToUpper(s.URL), ", for want of one": ""} {
		t.Run("oidcc-client-test-discovery-issuer-mismatch"+name, func(t *testing.T) {
			s.behave(t)
			usual := s.discovery
			s.discovery = func(doc map[string]any) { usual(doc); doc["issuer"] = issuer }
			p, err := NewProvider(Config{Name: "x", Issuer: s.URL, ClientID: "us", RedirectURL: "https://a/callback/x"}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if err := p.discover(t.Context()); err == nil {
				t.Error("the document of another issuer was accepted")
			}
			if to, err := p.authURL(newSecrets(""), nil); !errors.Is(err, ErrNotReady) {
				t.Errorf("a sign-in began at %q, %v", to, err)
			}
		})
	}
}

// TestConformanceKeyRotation has the modules about keys that change.
func TestConformanceKeyRotation(t *testing.T) {
	s := newSuite(t)
	first, second, third := s.key, jwt.NewKey(t, "second"), jwt.NewKey(t, "k")
	signWith := func(t *testing.T, k *jwt.Key) func(string) string {
		return func(nonce string) string {
			c := s.goodClaims()
			c["nonce"] = nonce
			return k.Sign(t, map[string]any{"alg": "RS256", "kid": k.ID}, encodeJSON(t, c))
		}
	}
	t.Run("oidcc-client-test-signing-key-rotation", func(t *testing.T) {
		s.behave(t)
		p := s.provider(t, nil)
		in, err := s.signIn(t, p)
		must(t, in, err, "")
		s.keys, s.idToken = func() []byte { return jwt.Set(second) }, signWith(t, second)
		in, err = s.signIn(t, p)
		must(t, in, err, "")
		if s.fetched.Load() != 2 {
			t.Errorf("the keys were fetched %d times; want once for each", s.fetched.Load())
		}
		s.idToken = signWith(t, first) // which has been taken out
		in, err = s.signIn(t, p)
		must(t, in, err, "signature")
	})
	for name, next := range map[string]*jwt.Key{"": second, ", with the same kid": third} {
		t.Run("oidcc-client-test-signing-key-rotation-just-before-signing"+name, func(t *testing.T) {
			s.behave(t)
			p := s.provider(t, nil)
			in, err := s.signIn(t, p) // the first keys are known now
			must(t, in, err, "")
			s.idToken = func(nonce string) string {
				s.keys = func() []byte { return jwt.Set(next) }
				return signWith(t, next)(nonce)
			}
			in, err = s.signIn(t, p)
			must(t, in, err, "")
		})
	}
	t.Run("the keys cannot be had", func(t *testing.T) {
		s.behave(t)
		s.keys = func() []byte { return []byte(`{"error":"SECRET"}`) }
		in, err := s.signIn(t, s.provider(t, nil))
		must(t, in, err, "signing keys")
		if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("the provider's answer is in the error: %v", err)
		}
	})
}

// TestProviderWithoutS256: a discovery document that does not name S256, or names only what is weaker, does not lead to less
// (the PKCE downgrade of RFC 9700, section 2.1.1). A provider that ignores the challenge cannot be told from one that minds it.
func TestProviderWithoutS256(t *testing.T) {
	s := newSuite(t)
	for name, methods := range map[string]any{"none": nil, "empty": []string{}, "plain": []string{"plain"}, "text": "plain"} {
		t.Run(name, func(t *testing.T) {
			s.behave(t)
			usual := s.discovery
			s.discovery = func(doc map[string]any) { usual(doc); doc["code_challenge_methods_supported"] = methods }
			in, err := s.signIn(t, s.provider(t, nil)) // looks for the challenge and its verifier
			must(t, in, err, "")
		})
	}
}
