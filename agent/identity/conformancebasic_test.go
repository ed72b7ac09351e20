// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"

	gojose "github.com/go-jose/go-jose/v4"

	"github.com/curfew-proxy/curfew/test/jwt"
)

// TestConformanceBasic has the modules of the basic and the test plan that are about ID tokens.
func TestConformanceBasic(t *testing.T) {
	s := newSuite(t)
	stranger, curve := jwt.NewKey(t, "k2"), newECKey(t)
	type m = map[string]any
	changed := func(change func(c, head m)) func(string) string {
		return func(nonce string) string { return s.sign(t, nonce, change) }
	}
	noKid := changed(func(_, head m) { delete(head, "kid") })
	keys := func(set []byte) func() []byte { return func() []byte { return set } }
	for _, tc := range []struct {
		module  string
		idToken func(nonce string) string // nil: a good one
		keys    func() []byte             // nil: the one key
		want    string                    // in the error; empty: accepted
	}{
		{"oidcc-client-test", nil, nil, ""},
		{"oidcc-client-test-client-secret-basic", nil, nil, ""}, // signIn looks; see also TestClientAuthentication
		{"oidcc-client-test-idtoken-sig-rs256", nil, nil, ""},
		{"oidcc-client-test-invalid-iss", changed(func(c, _ m) { c["iss"] = s.URL + "/other" }), nil, "different provider"},
		{"oidcc-client-test-missing-sub", changed(func(c, _ m) { delete(c, "sub") }), nil, "sub is missing"},
		{"oidcc-client-test-invalid-aud", changed(func(c, _ m) { c["aud"] = "us1" }), nil, "audience"},
		{"oidcc-client-test-missing-aud", changed(func(c, _ m) { delete(c, "aud") }), nil, "audience"},
		{"oidcc-client-test-missing-iat", changed(func(c, _ m) { delete(c, "iat") }), nil, "iat is missing"},
		{"oidcc-client-test-nonce-invalid", changed(func(c, _ m) { c["nonce"] = c["nonce"].(string) + "1" }), nil, "nonce"},
		{"oidcc-client-test-invalid-athash", changed(func(c, _ m) { c["at_hash"] = "AAAAAAAAAAAAAAAAAAAAAA" }), nil, "access token"},
		{"oidcc-client-test-kid-absent-single-jwks", noKid, keys(withoutKid(t, s.key)), ""},
		// The module leaves it to us whether to refuse these or to try all keys.
		{"oidcc-client-test-kid-absent-multiple-jwks", noKid, keys(jwt.Set(stranger, s.key)), ""},
		{"oidcc-client-test-kid-absent-multiple-jwks, no kids", noKid, keys(withoutKid(t, stranger, s.key)), ""},
		{"oidcc-client-test-kid-absent-multiple-jwks, by none of them", noKid, keys(jwt.Set(stranger, jwt.NewKey(t, "k3"))), "signature"},
		{"oidcc-client-test-ignores-unparseable-key-in-jwks", nil, func() []byte {
			return []byte(strings.Replace(string(jwt.Set(s.key)), `"keys":[`,
				`"keys":[{"kty":"AKP","alg":"ML-DSA-999","kid":"pq","pub":"AAAA"},{"kty":"made-up","kid":"x","n":7},`, 1))
		}, ""},
		{"oidcc-client-test-idtoken-sig-none", s.unsigned(t), nil, `"none"`}, // the module admits both
		{"oidcc-client-test-invalid-sig-rs256", func(nonce string) string { return damage(s.sign(t, nonce, nil)) }, nil, "signature"},
		{"oidcc-client-test-invalid-sig-rs256, another's key", func(nonce string) string {
			c := s.goodClaims()
			c["nonce"] = nonce
			return stranger.Sign(t, m{"alg": "RS256", "kid": "k"}, encodeJSON(t, c))
		}, nil, "signature"},
		{"oidcc-client-test-invalid-sig-hs256, by the client secret", s.shared(t, "s +/%:é"), nil, "algorithm"},
		{"oidcc-client-test-invalid-sig-hs256, by the public key", func(nonce string) string {
			c := s.goodClaims()
			c["nonce"] = nonce
			return s.key.Confuse(t, m{"alg": "HS256", "kid": "k"}, encodeJSON(t, c))
		}, nil, "algorithm"},
		{"oidcc-client-test-idtoken-sig-es256", curve.sign(t, s), keys(curve.set(t)), ""},
		{"oidcc-client-test-invalid-sig-es256", func(nonce string) string { return damage(curve.sign(t, s)(nonce)) }, keys(curve.set(t)), "signature"},
	} {
		t.Run(tc.module, func(t *testing.T) {
			s.behave(t)
			if tc.idToken != nil {
				s.idToken = tc.idToken
			}
			if tc.keys != nil {
				s.keys = tc.keys
			}
			in, err := s.signIn(t, s.provider(t, func(c *Config) { c.ClientSecret = "s +/%:é" })) // RFC 6749, section 2.3.1
			must(t, in, err, tc.want)
		})
	}
}

// damage changes the signature of a token.
func damage(token string) string {
	at := strings.LastIndexByte(token, '.') + 5
	c := byte('A')
	if token[at] == c {
		c = 'B'
	}
	return token[:at] + string(c) + token[at+1:]
}

// payload returns the middle part of a good ID token.
func (s *suite) payload(t *testing.T, nonce string) string {
	return strings.Split(s.sign(t, nonce, nil), ".")[1]
}

// unsigned returns tokens of algorithm none, without a signature.
func (s *suite) unsigned(t *testing.T) func(string) string {
	return func(nonce string) string {
		return jwt.Encode([]byte(`{"alg":"none"}`)) + "." + s.payload(t, nonce) + "."
	}
}

// shared returns tokens by HS256.
func (s *suite) shared(t *testing.T, secret string) func(string) string {
	return func(nonce string) string {
		input := jwt.Encode([]byte(`{"alg":"HS256"}`)) + "." + s.payload(t, nonce)
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(input)) // never fails
		return input + "." + jwt.Encode(mac.Sum(nil))
	}
}

// ecKey is a signing key for ES256.
type ecKey struct{ *ecdsa.PrivateKey }

func newECKey(t *testing.T) ecKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ecKey{k}
}

func (k ecKey) set(t *testing.T) []byte {
	b, err := json.Marshal(gojose.JSONWebKeySet{Keys: []gojose.JSONWebKey{{Key: k.Public(), KeyID: "e", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (k ecKey) sign(t *testing.T, s *suite) func(string) string {
	return func(nonce string) string {
		input := jwt.Encode([]byte(`{"alg":"ES256","kid":"e"}`)) + "." + s.payload(t, nonce)
		sum := sha256.Sum256([]byte(input))
		a, b, err := ecdsa.Sign(rand.Reader, k.PrivateKey, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		sig := make([]byte, 2*crypto.SHA256.Size())
		a.FillBytes(sig[:32])
		b.FillBytes(sig[32:])
		return input + "." + jwt.Encode(sig)
	}
}
