// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-proxy/curfew/test/jwt"
)

// TestTokensThatWaitForKeys: whoever sends tokens with unknown keys uses up the fetches just when the issuer has a new key. A
// token that waits is checked with it at the next fetch, which nobody can take away; all who wait share it, and they are bounded.
func TestTokensThatWaitForKeys(t *testing.T) {
	old, fresh := jwt.NewKey(t, "old"), jwt.NewKey(t, "fresh")
	synctest.Test(t, func(t *testing.T) {
		var key atomic.Pointer[jwt.Key]
		var fetches atomic.Int64
		key.Store(old)
		serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fetches.Add(1); jwt.Serve(key.Load())(w, r) })
		keys := NewKeySet("http://issuer.example/keys", &http.Client{Transport: jwt.Transport{Handler: serve}}, time.Now)
		sign := func(k *jwt.Key, kid string) string {
			return k.Sign(t, map[string]any{"alg": "RS256", "kid": kid}, `{"sub":"alice"}`)
		}
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { // somebody who goes on and on
			for i := 0; ctx.Err() == nil; i++ {
				_, _ = keys.VerifySignature(ctx, sign(old, fmt.Sprint("unknown", i)))
				time.Sleep(100 * time.Millisecond)
			}
		})
		time.Sleep(time.Second)
		key.Store(fresh)
		good, before, began := sign(fresh, "fresh"), fetches.Load(), time.Now()
		if _, err := keys.VerifySignature(ctx, good); !errors.Is(err, ErrKeysLater) || !errors.Is(err, ErrNoKeys) {
			t.Fatalf("without patience: %v", err)
		}
		var taken, refused atomic.Int64
		for range 2 * maxPatient {
			all.Go(func() {
				switch _, err := keys.VerifyPatiently(ctx, good); {
				case err == nil:
					taken.Add(1)
				case errors.Is(err, ErrKeysLater):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if refused.Load() != maxPatient {
			t.Errorf("%d are refused for want of room", refused.Load())
		}
		time.Sleep(keyFetchInterval)
		synctest.Wait()
		if n := fetches.Load() - before; taken.Load() != maxPatient || n != 1 {
			t.Errorf("%d taken after %v, by %d fetches", taken.Load(), time.Since(began), n)
		}
		if _, err := keys.VerifyPatiently(ctx, sign(old, "old")); !errors.Is(err, ErrSignature) {
			t.Errorf("of a key that is not there any more: %v", err)
		}
		stop()
		all.Wait()
		if n := keys.patient.Load(); n != 0 {
			t.Errorf("%d wait still", n)
		}
	})
}
