// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/jwt"
)

type object = map[string]any

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// verifier admits what key signs.
func verifier(t testing.TB, keys ...*jwt.Key) *Verifier {
	t.Helper()
	set, err := NewFixedKeySet(jwt.Set(keys...))
	if err != nil {
		t.Fatal(err)
	}
	return &Verifier{Keys: set, Issuer: "https://idp.example", Audience: "us", TrustedAudiences: []string{"friend"},
		Types: []string{Untyped, TypeJWT}, Algorithms: asymmetric}
}

func TestVerify(t *testing.T) {
	key, stranger := jwt.NewKey(t, "k"), jwt.NewKey(t, "k")
	v := verifier(t, jwt.NewKey(t, "other"), key)
	for _, tc := range []struct {
		name   string
		change func(claims, header object)
		want   string // in the error; empty: accepted
	}{
		{"good", func(_, _ object) {}, ""},
		{"typed", func(_, h object) { h["typ"] = "JWT" }, ""},
		{"no kid", func(_, h object) { delete(h, "kid") }, ""},
		{"trusted audience", func(c, _ object) { c["aud"] = []string{"friend", "us"} }, ""},
		{"unknown kid", func(_, h object) { h["kid"] = "x" }, "signature"},
		{"other kid", func(_, h object) { h["kid"] = "other" }, "signature"},
		{"other algorithm", func(_, h object) { h["alg"] = "PS256" }, "signature"},
		{"alg none", func(_, h object) { h["alg"] = "none" }, "algorithm"},
		{"alg HS256", func(_, h object) { h["alg"] = "HS256" }, "algorithm"},
		{"no alg", func(_, h object) { delete(h, "alg") }, "algorithm"},
		{"two algs", func(_, h object) { h["ALG"] = "HS256" }, "same but for case"},
		{"critical header", func(_, h object) { h["crit"] = []string{"x"}; h["x"] = 1 }, "signature"},
		{"access token", func(_, h object) { h["typ"] = "at+jwt" }, "type"},
		{"other issuer", func(c, _ object) { c["iss"] = "https://idp.example/" }, "iss"},
		{"no issuer", func(c, _ object) { delete(c, "iss") }, "iss"},
		{"no audience", func(c, _ object) { delete(c, "aud") }, "aud"},
		{"other audience", func(c, _ object) { c["aud"] = "US" }, "aud"},
		{"foreign audience", func(c, _ object) { c["aud"] = []string{"us", "them"} }, "not a trusted audience"},
		{"only the trusted one", func(c, _ object) { c["aud"] = "friend" }, "aud"},
		{"aud is an object", func(c, _ object) { c["aud"] = object{"us": 1} }, "aud"},
		{"ISS beside iss", func(c, _ object) { c["ISS"] = "x" }, "same but for case"},
		{"too long", func(c, _ object) { c["x"] = strings.Repeat("a", MaxToken) }, "longer"},
	} {
		claims, head := object{"iss": "https://idp.example", "aud": "us", "sub": "a"}, object{"alg": "RS256", "kid": "k"}
		tc.change(claims, head)
		c, err := v.Verify(t.Context(), key.Sign(t, head, mustJSON(t, claims)))
		if (err == nil) != (tc.want == "") || (c == nil) != (err != nil) || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want %q", tc.name, err, tc.want)
		}
	}
	good, head := mustJSON(t, object{"iss": "https://idp.example", "aud": "us"}), object{"alg": "RS256", "kid": "k"}
	for name, token := range map[string]string{
		"another's key":          stranger.Sign(t, head, good),
		"the public key as HMAC": key.Confuse(t, object{"alg": "HS256", "kid": "k"}, good),
		"no signature":           strings.TrimRight(key.Sign(t, head, good), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"),
		"not a token":            "x",
		"written with a break":   strings.Replace(key.Sign(t, head, good), ".", ".\n", 1),
		"break in the header":    "\r" + key.Sign(t, head, good),
		"break at the end":       key.Sign(t, head, good) + "\n",
		"written with blanks":    strings.Replace(key.Sign(t, head, good), ".", ". ", 1),
		"padded":                 strings.Replace(key.Sign(t, head, good), ".", "=.", 1),
		"stray bits":             strayBits(key.Sign(t, head, good)),
		"empty":                  "",
		"8 MiB":                  strings.Repeat("a", 8<<20),
		"JSON form":              `{"payload":"e30","protected":"e30","signature":""}`,
	} {
		if _, err := v.Verify(t.Context(), token); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// strayBits writes a token's signature, which has 256 bytes, in another way: four bits of the last character
// mean nothing.
func strayBits(token string) string {
	last := len(token) - 1
	return token[:last] + string(token[last]+1)
}

func TestSignedPart(t *testing.T) {
	for token, want := range map[string]string{"a.b.c": "a.b", "a": "", "": "", ".": ""} {
		if got := SignedPart(token); got != want {
			t.Errorf("SignedPart(%q) = %q, want %q", token, got, want)
		}
	}
}

func TestFixedKeys(t *testing.T) {
	for name, set := range map[string]string{
		"no JSON":     "x",
		"no keys":     `{"keys":[]}`,
		"shared":      `{"keys":[{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}]}`,
		"weak RSA":    `{"keys":[{"kty":"RSA","e":"AQAB","n":"` + jwt.Encode([]byte(strings.Repeat("\xff", 128))) + `"}]}`,
		"unknown":     `{"keys":[{"kty":"XYZ"}]}`,
		"to encrypt":  strings.ReplaceAll(string(jwt.Set(jwt.NewKey(t, "k"))), `"sig"`, `"enc"`),
		"HMAC in alg": strings.ReplaceAll(string(jwt.Set(jwt.NewKey(t, "k"))), `"RS256"`, `"HS256"`),
		"many":        `{"keys":[` + strings.Repeat(`{"kty":"XYZ"},`, maxKeys) + `{"kty":"XYZ"}]}`,
	} {
		if _, err := NewFixedKeySet([]byte(set)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	set := strings.Replace(string(jwt.Set(jwt.NewKey(t, "k"))), `"keys":[`, `"keys":[{"kty":"XYZ"},`, 1)
	if _, err := NewFixedKeySet([]byte(set)); err != nil {
		t.Errorf("a key that is not known beside one that is: %v", err)
	}
}

func TestCheckCurrent(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for payload, want := range map[string]string{
		`{"exp":1000001}`:                 "",
		`{"exp":1000000}`:                 "has expired",
		`{"exp":1}`:                       "has expired",
		`{}`:                              "exp is missing",
		`{"exp":"1000001"}`:               "exp is not a date",
		`{"exp":1000001,"nbf":1000060}`:   "",
		`{"exp":1000001,"nbf":1000061}`:   "is not good before",
		`{"exp":1000001,"nbf":"x"}`:       "nbf is not a date",
		`{"exp":1000000000000,"nbf":0.5}`: "",
	} {
		c, err := ParseClaims([]byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		exp, err := c.CheckCurrent(now)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) || err == nil && !exp.After(now) {
			t.Errorf("%s: %v, %v; want %q", payload, exp, err, want)
		}
	}
}

func TestKeysThatCannotBeHad(t *testing.T) {
	key := jwt.NewKey(t, "k")
	v := verifier(t, key)
	v.Keys = NewKeySet("http://127.0.0.1:1/keys", NewHTTPClient(nil), time.Now)
	token := key.Sign(t, object{"alg": "RS256"}, `{}`)
	if _, err := v.Verify(t.Context(), token); !errors.Is(err, ErrNoKeys) {
		t.Errorf("keys out of reach: %v; want ErrNoKeys", err)
	}
	if _, err := v.Keys.VerifySignature(t.Context(), "x.y.z"); err == nil || errors.Is(err, ErrNoKeys) {
		t.Errorf("no token: %v", err)
	}
}

// FuzzVerify: whatever is presented, nothing is accepted that its key has not signed.
func FuzzVerify(f *testing.F) {
	key := jwt.NewKey(f, "k")
	v := verifier(f, key)
	good := key.Sign(f, object{"alg": "RS256"}, `{"iss":"https://idp.example","aud":"us","exp":1,"nbf":0}`)
	f.Add(good)
	f.Add(key.Sign(f, object{"alg": "RS256", "typ": "at+jwt"}, `{"iss":"https://idp.example","aud":["us"]}`))
	f.Add(key.Confuse(f, object{"alg": "HS256"}, `{"iss":"https://idp.example","aud":"us"}`))
	f.Add(strings.TrimSuffix(good, good[len(good)-4:]))
	f.Add(`{"payload":"e30","signatures":[]}`)
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if c, err := Unverified(token); err == nil {
			_, _ = c.CheckCurrent(time.Unix(0, 0))
			_, _ = c.CheckIssued(time.Unix(0, 0))
		}
		if _, err := v.Verify(t.Context(), token); err == nil && token != good {
			t.Fatalf("%q was accepted", token)
		}
	})
}

// Who answers a token tells its issuer which of these is wrong.
func TestVerifyErrorKinds(t *testing.T) {
	key, stranger := jwt.NewKey(t, "k"), jwt.NewKey(t, "k")
	v := verifier(t, key)
	for name, tc := range map[string]struct {
		key    *jwt.Key
		claims object
		want   error
	}{
		"signature":        {stranger, object{"iss": "https://idp.example", "aud": "us"}, ErrSignature},
		"issuer":           {key, object{"iss": "https://other.example", "aud": "us"}, ErrIssuer},
		"audience":         {key, object{"iss": "https://idp.example", "aud": "them"}, ErrAudience},
		"further audience": {key, object{"iss": "https://idp.example", "aud": []string{"us", "them"}}, ErrAudience},
	} {
		_, err := v.Verify(t.Context(), tc.key.Sign(t, object{"alg": "RS256", "kid": "k"}, mustJSON(t, tc.claims)))
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want it to be %v", name, err, tc.want)
		}
	}
}

func TestLocatedKeys(t *testing.T) {
	key := jwt.NewKey(t, "k")
	before, after := httptest.NewServer(jwt.Serve(jwt.NewKey(t, "other"))), httptest.NewServer(jwt.Serve(key))
	defer before.Close()
	defer after.Close()
	asked := 0
	locate := func(context.Context) (string, error) {
		asked++
		return []string{before.URL, after.URL}[asked-1], nil
	}
	set := NewLocatedKeySet("issuer", locate, NewHTTPClient(nil), time.Now)
	token := key.Sign(t, object{"alg": "RS256"}, `{}`)
	if _, err := set.VerifySignature(t.Context(), token); !errors.Is(err, ErrSignature) || asked != 1 {
		t.Errorf("located %d times: %v", asked, err)
	}
	if _, err := set.VerifySignature(t.Context(), token); err != nil || asked != 2 {
		t.Errorf("after the keys have changed, located %d times: %v", asked, err)
	}
}
