// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/curfew-proxy/curfew/test/jwt"
)

func FuzzClaims(f *testing.F) {
	for _, seed := range []string{
		`{"sub":"alice","groups":["a"],"iat":1.5}`, `{"sub":"a","SUB":"b"}`, "{\"i\u017fs\":1,\"iss\":2}",
		`{"sub":"a","sub":"b"}`, `{}`, `[]`, `{"sub":"\u0000"}`, `{"sub":"a"}{}`, `{"groups":{"x":["y"]}}`, `{"iat":1e400}`, "\xff",
	} {
		f.Add([]byte(seed), "groups")
		f.Add([]byte(seed), "/groups/x")
	}
	f.Fuzz(func(t *testing.T, payload []byte, path string) {
		c, err := ParseClaims(payload)
		if err != nil {
			return
		}
		if raw, err := c.At(path); err == nil {
			_, _ = Texts(path, raw)
		}
		_, _ = c.Instant("iat")
		if values, err := c.Values(); err != nil || len(values) != len(c) {
			t.Fatalf("%q: values %v, %v", payload, values, err)
		}
		// What encoding/json, and so go-oidc, would read must be what was read here.
		var loose struct {
			Sub string `json:"sub"`
		}
		looseErr := json.Unmarshal(payload, &loose)
		sub, err := c.Subject()
		if err != nil {
			return
		}
		if looseErr != nil || loose.Sub != sub {
			t.Fatalf("%q: sub is %q here, %q to encoding/json (%v)", payload, sub, loose.Sub, looseErr)
		}
		if strings.ContainsFunc(sub, unicode.IsControl) || len(sub) > MaxSubject {
			t.Fatalf("%q got through", sub)
		}
	})
}

// FuzzKeys: whatever an issuer publishes, what is taken from it are public keys that are strong enough to check signatures with.
func FuzzKeys(f *testing.F) {
	f.Add([]byte(jwt.Set(jwt.NewKey(f, "k"))))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"OKP","crv":"Ed25519","x":""}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"XYZ"},null,7]}`))
	for _, seed := range []string{`{"keys":{}}`, `{"keys":[]}`, `{"keys":null}`, `[]`, `{"keys":[{"kty":"RSA","x5c":["AA"]}]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, set []byte) {
		keys, err := parseKeys(set)
		if err == nil && (len(keys) == 0 || len(keys) > maxKeys) {
			t.Fatalf("%d keys", len(keys))
		}
		for _, k := range keys {
			switch public := k.Key.(type) {
			case *rsa.PublicKey:
				if public.N.BitLen() < minRSABits {
					t.Fatalf("an RSA key of %d bits", public.N.BitLen())
				}
			case *ecdsa.PublicKey:
				if _, err := public.ECDH(); err != nil {
					t.Fatalf("a point that is not on its curve: %v", err)
				}
			case ed25519.PublicKey:
				if len(public) != ed25519.PublicKeySize {
					t.Fatalf("an Ed25519 key of %d bytes", len(public))
				}
			default:
				t.Fatalf("%T was taken", k.Key)
			}
		}
	})
}

func FuzzTokenHeader(f *testing.F) {
	f.Add(jwt.Encode([]byte(`{"typ":"JWT"}`)) + ".e30.x")
	f.Add(jwt.Encode([]byte(`{"typ":"logout+jwt"}`)))
	f.Add("..")
	f.Fuzz(func(_ *testing.T, raw string) { _ = CheckType(raw, TypeJWT) })
}

// FuzzDiscovery: a document is read only if it is that of the issuer, by any reader.
func FuzzDiscovery(f *testing.F) {
	for _, seed := range []string{`{"issuer":"https://idp.example","jwks_uri":"https://idp.example/keys"}`, `{"issuer":"https://idp.example","ISSUER":"x"}`,
		`{"issuer":"https://idp.example/"}`, `{"issuer":"https://idp.example","jwks_uri":1}`, `{"Issuer":"https://idp.example"}`, `[]`, "\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var doc struct {
			Keys string `json:"jwks_uri"`
		}
		err := readDiscovery(body, "https://idp.example", &doc)
		if err != nil && len(err.Error()) > 4*MaxText {
			t.Fatalf("an error of %d bytes", len(err.Error()))
		}
		var loose struct{ Issuer string }
		if err == nil && (json.Unmarshal(body, &loose) != nil || loose.Issuer != "https://idp.example") {
			t.Fatalf("%q is that of %q", body, loose.Issuer)
		}
	})
}
