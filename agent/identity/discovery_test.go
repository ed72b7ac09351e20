// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// TestHostileDiscovery: whatever comes instead of a discovery document, nobody can sign in, the agent is not held up, and the log
// does not have what came; and when a good one comes, all is well.
func TestHostileDiscovery(t *testing.T) {
	s := newHostile(t)
	good := s.Config.Handler
	const secret = "SECRET"
	endless := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte(secret), 1<<13)); err != nil {
				return
			}
		}
	}
	for name, serve := range map[string]http.HandlerFunc{
		"silent": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"drips": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Millisecond)
			}
		},
		"endless": endless,
		"endless error": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			endless(w, r)
		},
		"huge and said so": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "9999999") },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, s.URL+"/elsewhere/.well-known/openid-configuration", http.StatusFound)
		},
		"error": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(secret))
		},
		"page": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>" + secret)) },
		"number": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":1}`, s.URL)
		},
		"two names": func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, `{"issuer":"https://else.example","Issuer":"http://%s"}`, r.Host)
		},
		"long endpoint": func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, `{"issuer":"http://%s","authorization_endpoint":"http://%s"}`, r.Host, strings.Repeat("x", 100_000))
		},
		"hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			var bad atomic.Bool
			bad.Store(true)
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if bad.Load() {
					serve(w, r)
					return
				}
				good.ServeHTTP(w, r)
			}))
			defer front.Close()
			p, err := NewProvider(Config{Name: "x", Issuer: front.URL, ClientID: "us", RedirectURL: "https://a/callback/x"}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			client := p.settings.Load().client
			if client.Timeout != jose.Timeout {
				t.Errorf("a request may take %v", client.Timeout)
			}
			client.Timeout = 200 * time.Millisecond // no test should take as long as a provider may
			began := time.Now()
			if err := p.discover(t.Context()); err == nil || strings.Contains(err.Error(), secret) || len(err.Error()) > 4*jose.MaxText {
				t.Errorf("%.300v", err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			if to, err := p.authURL(newSecrets(""), nil); !errors.Is(err, ErrNotReady) {
				t.Errorf("a sign-in began at %q, %v", to, err)
			}
			bad.Store(false)
			s.discovery = func(doc map[string]any) { doc["issuer"] = front.URL }
			client.Timeout = jose.Timeout
			if err := p.discover(t.Context()); err != nil || !p.Ready() {
				t.Errorf("a good one, afterwards: %v", err)
			}
		})
	}
}
