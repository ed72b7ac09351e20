// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/jwt"
)

// keyServer serves one key, and counts how often.
type keyServer struct {
	*httptest.Server
	key     atomic.Pointer[jwt.Key]
	fetches atomic.Int64
}

func newKeyServer(t *testing.T) *keyServer {
	t.Helper()
	s := new(keyServer)
	s.key.Store(jwt.NewKey(t, "k"))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		jwt.Serve(s.key.Load())(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *keyServer) sign(t *testing.T, kid string) string {
	t.Helper()
	return s.key.Load().Sign(t, map[string]any{"alg": "RS256", "kid": kid}, `{"sub":"alice"}`)
}

// TestKeyFetchesAreLimited: go-oidc alone fetches the keys once per bad token.
func TestKeyFetchesAreLimited(t *testing.T) {
	s := newKeyServer(t)
	keys := NewKeySet(s.URL, NewHTTPClient(nil), time.Now)
	for i := range 50 {
		if _, err := keys.VerifySignature(t.Context(), s.sign(t, fmt.Sprint("unknown", i))); err == nil {
			t.Fatal("a token with an unknown key was accepted")
		}
	}
	if n := s.fetches.Load(); n > keyFetchBurst {
		t.Errorf("50 bad tokens made %d fetches of the keys", n)
	}
	if _, err := keys.VerifySignature(t.Context(), s.sign(t, "k")); err != nil {
		t.Errorf("a good token after bad ones: %v", err)
	}
}

// TestRemovedKeys: go-oidc alone honours a key for ever that its provider has withdrawn.
func TestRemovedKeys(t *testing.T) {
	s := newKeyServer(t)
	now := time.Now()
	keys := NewKeySet(s.URL, NewHTTPClient(nil), func() time.Time { return now })
	token := s.sign(t, "k")
	if _, err := keys.VerifySignature(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	s.key.Store(jwt.NewKey(t, "k"))
	now = now.Add(keysMaxAge)
	if _, err := keys.VerifySignature(t.Context(), token); err == nil {
		t.Error("the withdrawn key is honoured after its time")
	}
}

func TestAnswersAreBounded(t *testing.T) {
	s := newKeyServer(t)
	token := s.sign(t, "k")
	for name, serve := range map[string]http.HandlerFunc{
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for chunk := []byte(strings.Repeat(" ", 1<<16)); r.Context().Err() == nil; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"silent": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"drips": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Millisecond)
			}
		},
		"announced": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "9999999") },
		"redirect":  func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, s.URL, http.StatusFound) },
	} {
		bad := httptest.NewServer(serve)
		client := NewHTTPClient(nil)
		if client.Timeout != Timeout {
			t.Errorf("a request may take %v", client.Timeout)
		}
		client.Timeout = 300 * time.Millisecond // no test should take as long as an issuer may
		began := time.Now()
		if _, err := NewKeySet(bad.URL, client, time.Now).VerifySignature(t.Context(), token); !errors.Is(err, ErrNoKeys) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
		bad.Close()
	}
	if s.fetches.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestDiscoveredKeys(t *testing.T) {
	s := newKeyServer(t)
	var doc atomic.Value
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/realm/.well-known/openid-configuration" {
			_, _ = fmt.Fprint(w, doc.Load())
		}
	}))
	defer issuer.Close()
	name := issuer.URL + "/realm"
	for _, tc := range []struct{ doc, want string }{
		{fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, name, s.URL), ""},
		{fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, name+"/", s.URL), "calls itself"},
		{fmt.Sprintf(`{"issuer":%q,"Issuer":"x","jwks_uri":%q}`, name, s.URL), "same but for case"},
		{fmt.Sprintf(`{"issuer":%q}`, name), "jwks_uri"},
		{fmt.Sprintf(`{"issuer":%q,"jwks_uri":"http://elsewhere.example/"}`, name), "https"},
		{`[]`, "not a JSON object"},
	} {
		doc.Store(tc.doc)
		_, err := NewIssuerKeySet(name, NewHTTPClient(nil), time.Now).VerifySignature(t.Context(), s.sign(t, "k"))
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want %q", tc.doc, err, tc.want)
		}
	}
}

// TestAnswersStayOutOfErrors: go-oidc puts the whole answer into its error, and so into the log.
func TestAnswersStayOutOfErrors(t *testing.T) {
	token := newKeyServer(t).sign(t, "k")
	for _, status := range []int{http.StatusOK, http.StatusForbidden} {
		bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte("SECRET"))
		}))
		_, err := NewKeySet(bad.URL, NewHTTPClient(nil), time.Now).VerifySignature(t.Context(), token)
		if err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%d: %v", status, err)
		}
		bad.Close()
	}
}
