// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
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

// What is remembered of logout tokens is bounded, in number and in time.
func TestOnce(t *testing.T) {
	var o once
	now := time.Now()
	for i := range onceMax + 10 {
		if !o.admit(fmt.Sprint(i), now) {
			t.Fatalf("%d is new", i)
		}
	}
	if len(o.seen) > onceMax || len(o.fifo) != len(o.seen) {
		t.Errorf("%d are remembered, %d in order", len(o.seen), len(o.fifo))
	}
	if o.admit(fmt.Sprint(onceMax), now) {
		t.Error("one of a moment ago is admitted again")
	}
	if now = now.Add(logoutMaxAge + jose.Leeway + time.Second); !o.admit("x", now) || len(o.seen) != 1 || len(o.fifo) != 1 {
		t.Errorf("%d are remembered that are too old to come again", len(o.seen))
	}
	if o.again("x"); !o.admit("x", now) || o.admit("x", now) || len(o.fifo) != 1 {
		t.Errorf("one that was taken back: %d in order", len(o.fifo))
	}
}
