// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/test/jwt"
)

// unknown is what becomes of a token of a key that does not exist.
func unknown(t *testing.T, keys *jose.KeySet, key *jwt.Key) error {
	_, err := keys.VerifySignature(t.Context(), key.Sign(t, map[string]any{"alg": "RS256", "kid": "unknown"}, "{}"))
	return err
}

// TestLogoutJustAfterTheKeysHaveChanged keeps out a logout that is lost because a stranger, with tokens of unknown keys, has used
// up the fetches of the keys: the provider does not come again. It is heeded although the provider has hung up.
func TestLogoutJustAfterTheKeysHaveChanged(t *testing.T) {
	s, fresh := newSuite(t), jwt.NewKey(t, "fresh")
	s.behave(t)
	var key atomic.Pointer[jwt.Key]
	key.Store(s.key)
	s.keys = func() []byte { return jwt.Set(key.Load()) }
	synctest.Test(t, func(t *testing.T) {
		p, err := NewProvider(Config{Name: "hostile", Issuer: s.URL, ClientID: "us", RedirectURL: "https://agent.example/callback/hostile"}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		var silent atomic.Bool
		p.settings.Load().client.Transport = jwt.Transport{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if silent.Load() {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			at := s.Server
			if strings.HasSuffix(s.other.URL, r.URL.Host) {
				at = s.other
			}
			at.Config.Handler.ServeHTTP(w, r)
		})}
		if err := p.discover(t.Context()); err != nil {
			t.Fatal(err)
		}
		ends := &ended{}
		l := &providerLogouts{ends: ends, logins: NewLogins(LoginsConfig{Providers: providersOf(p), Log: slog.New(slog.DiscardHandler)})}
		post := func(ctx context.Context, from string, key *jwt.Key, kid, jti string) *httptest.ResponseRecorder {
			token := key.Sign(t, map[string]any{"alg": "RS256", "kid": kid}, encodeJSON(t, s.logoutClaims(jti)))
			r := httptest.NewRequestWithContext(ctx, "POST", pathBackChannel+"hostile", strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.SetPathValue("provider", "hostile")
			r.RemoteAddr = from + ":1"
			w := httptest.NewRecorder()
			l.backChannel(w, r)
			return w
		}
		for range 10 {
			if keys := p.meta.Load().keys; errors.Is(unknown(t, keys, s.key), jose.ErrKeysLater) {
				break
			}
		}
		var all sync.WaitGroup
		for i := range 200 { // at once, from one place: more than may wait
			all.Go(func() {
				if w := post(t.Context(), "192.0.2.66", s.key, fmt.Sprint("unknown", i), "x"); w.Code == http.StatusOK {
					t.Error("a token of a key of nobody is taken")
				}
			})
		}
		synctest.Wait()
		key.Store(fresh)
		ctx, hangUp := context.WithCancel(t.Context())
		all.Go(func() {
			if w := post(ctx, "192.0.2.1", fresh, "fresh", "1"); w.Code != http.StatusOK {
				t.Errorf("the provider's own: %d %s", w.Code, w.Body)
			}
		})
		synctest.Wait()
		hangUp()
		all.Wait()
		if n := len(ends.taken()); n != 1 {
			t.Errorf("%d ended", n)
		}
		if w := post(t.Context(), "192.0.2.66", s.key, "unknown", "x"); w.Code != http.StatusTooManyRequests {
			t.Errorf("who has sent so many is answered %d", w.Code)
		}
		time.Sleep(time.Hour) // by now keys are to be fetched
		silent.Store(true)
		if w := post(t.Context(), "192.0.2.1", fresh, "fresh", "2"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("without keys: %d %s", w.Code, w.Body)
		}
	})
}
