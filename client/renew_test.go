// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
)

// renewed is a renewal with an agent that takes every token, in simulated time.
type renewed struct {
	mu     sync.Mutex // guards the fields below
	token  string
	err    error         // of the agent
	left   time.Duration // of each new session; zero: until ends
	ends   time.Time
	asked  []time.Duration // since the beginning
	told   []error
	taken  int
	cancel context.CancelFunc
}

func (r *renewed) start(t *testing.T) {
	began := time.Now()
	session := func() api.Session {
		if r.left != 0 {
			return api.Session{Left: api.Seconds(r.left)}
		}
		return api.Session{Left: api.Seconds(max(0, time.Until(r.ends)))}
	}
	keep := renewal{
		source: func() (string, error) {
			defer r.lock()()
			if r.token == "" {
				return "", errors.New("no token")
			}
			return r.token, nil
		},
		signIn: func(context.Context, string) (api.Session, error) {
			defer r.lock()()
			r.asked = append(r.asked, time.Since(began))
			return session(), r.err
		},
		report: func(_ api.Session, err error) {
			defer r.lock()()
			if err != nil {
				r.told = append(r.told, err)
			} else {
				r.taken++
			}
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	go keep.run(ctx, r.token, session())
}

func (r *renewed) lock() (unlock func()) { r.mu.Lock(); return r.mu.Unlock }

// sleep lets the renewal go on for a while. The caller has the lock.
func (r *renewed) sleep(d time.Duration) {
	r.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	r.mu.Lock()
}

func about(have, want time.Duration) bool { return have >= want && have <= want+tokenPoll }

func TestRenewalInGoodTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &renewed{token: "a", left: time.Hour}
		r.start(t)
		defer r.cancel()
		defer r.lock()()
		r.sleep(2*time.Hour + time.Minute)
		if len(r.asked) != 3 || !about(r.asked[0], 40*time.Minute) || r.taken != 3 || len(r.told) != 0 {
			t.Errorf("asked at %v, told %v; want every 40 minutes", r.asked, r.told)
		}
	})
}

// A token that is refreshed is used at once; one that is not, and bounds its session, only once more.
func TestRenewalWithAFreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &renewed{token: "a", ends: time.Now().Add(time.Hour)}
		r.start(t)
		defer r.cancel()
		defer r.lock()()
		r.sleep(48 * time.Minute)
		if len(r.asked) != 1 || !about(r.asked[0], 40*time.Minute) {
			t.Errorf("asked at %v", r.asked)
		}
		r.token, r.ends = "b", r.ends.Add(48*time.Minute)
		r.sleep(time.Minute)
		if len(r.asked) != 2 || !about(r.asked[1], 48*time.Minute) || len(r.told) != 0 {
			t.Errorf("asked at %v, told %v", r.asked, r.told)
		}
		r.sleep(2 * time.Hour)
		var e *api.Error
		if len(r.told) != 1 || !errors.As(r.told[0], &e) || e.Code != api.CodeSessionEnded {
			t.Errorf("told %v, want once that the session has ended", r.told)
		}
		r.token, r.ends = "c", time.Now().Add(time.Hour)
		r.sleep(tokenPoll + time.Millisecond)
		if r.taken != 4 {
			t.Errorf("%d sessions after the token came too late", r.taken)
		}
	})
}

func TestRenewalGoesOnAfterErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &renewed{token: "a", left: time.Hour}
		r.start(t)
		defer r.cancel()
		defer r.lock()()
		r.sleep(time.Minute)
		r.token, r.err = "b", errors.New("refused")
		r.sleep(10 * time.Minute)
		if n := len(r.asked); n < 10 || n > 30 || len(r.told) != 1 {
			t.Errorf("%d tries in ten minutes, told %v", n, r.told)
		}
		r.err = nil
		r.sleep(2 * renewMax)
		if r.taken != 1 {
			t.Errorf("%d sessions", r.taken)
		}
		tries := len(r.asked)
		r.token = ""
		r.sleep(time.Minute)
		if len(r.asked) != tries || len(r.told) != 2 {
			t.Errorf("without a token: %d tries more, told %v", len(r.asked)-tries, r.told)
		}
		r.token, r.err = "c", errors.New("another")
		r.sleep(tokenPoll + time.Millisecond)
		r.token, r.err = "d", nil // a new one is tried at once
		r.sleep(tokenPoll + time.Millisecond)
		if len(r.asked) < tries+2 || r.taken != 2 {
			t.Errorf("%d tries more, %d sessions", len(r.asked)-tries, r.taken)
		}
	})
}
