// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/curfew-proxy/curfew/agent/session"
)

// TestStormOfLogouts has a provider sign out hundreds of users at once, and send each token twice: every one is heeded, once,
// nobody is turned away, and the keys are fetched once.
func TestStormOfLogouts(t *testing.T) {
	const users, workers = 500, 16
	s := newSuite(t)
	s.behave(t)
	_, ends, handler := logoutServer(t, s.hostile, nil)
	tokens := make(chan string, 2*users)
	for i := range users {
		claims := s.logoutClaims(fmt.Sprint("j", i))
		delete(claims, "sid")
		claims["sub"] = fmt.Sprint("user", i)
		token := s.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, encodeJSON(t, claims))
		tokens <- token
		tokens <- token
	}
	close(tokens)
	var taken atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for token := range tokens {
				switch w := postLogout(handler, token); w.Code {
				case http.StatusOK:
					taken.Add(1)
				case http.StatusBadRequest: // the second time
				default:
					t.Errorf("%d %s", w.Code, w.Body)
				}
			}
		})
	}
	all.Wait()
	who := map[session.Match]int{}
	for _, m := range ends.taken() {
		who[m]++
	}
	if taken.Load() != users || len(who) != users {
		t.Errorf("%d taken, %d users signed out", taken.Load(), len(who))
	}
	for m, n := range who {
		if n != 1 {
			t.Errorf("%s was signed out %d times", m.Subject, n)
		}
	}
	if n := s.fetched.Load(); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
}
