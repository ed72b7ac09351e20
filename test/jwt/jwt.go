// SPDX-License-Identifier: Apache-2.0

// Package jwt makes signed tokens for tests: good ones, and what no library would make. It uses the
// standard library only, so that it shares no fault with what it tests.
package jwt

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"testing"
)

// Key is a signing key of an issuer (RS256).
type Key struct {
	ID      string // kid
	private *rsa.PrivateKey
}

// NewKey makes a key.
func NewKey(t testing.TB, id string) *Key {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &Key{ID: id, private: private}
}

// Sign signs any header and payload with the key, whatever the header says.
func (k *Key) Sign(t testing.TB, header map[string]any, payload string) string {
	t.Helper()
	input := unsigned(t, header, payload)
	sum := sha256.Sum256([]byte(input))
	sig, err := rsa.SignPKCS1v15(nil, k.private, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + Encode(sig)
}

// Confuse signs with the public key as if it were a shared secret: for HS256.
func (k *Key) Confuse(t testing.TB, header map[string]any, payload string) string {
	t.Helper()
	input := unsigned(t, header, payload)
	mac := hmac.New(sha256.New, k.private.N.Bytes())
	mac.Write([]byte(input)) // never fails
	return input + "." + Encode(mac.Sum(nil))
}

func unsigned(t testing.TB, header map[string]any, payload string) string {
	t.Helper()
	head, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	return Encode(head) + "." + Encode([]byte(payload))
}

// Encode is base64url without padding (RFC 7515, section 2).
func Encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Set returns the public halves as a JWK Set (RFC 7517).
func Set(keys ...*Key) []byte {
	list := make([]any, len(keys))
	for i, k := range keys {
		e := big.NewInt(int64(k.private.E)).Bytes()
		list[i] = map[string]any{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": k.ID, "n": Encode(k.private.N.Bytes()), "e": Encode(e)}
	}
	b, _ := json.Marshal(map[string]any{"keys": list}) // strings only: cannot fail
	return b
}

// Serve returns a handler of the keys' set.
func Serve(keys ...*Key) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(Set(keys...)) // who asked may be gone
	}
}
