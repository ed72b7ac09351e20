// SPDX-License-Identifier: Apache-2.0

package opinion

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
)

func mustAsk(t *testing.T, r *rig, q Question, requests int64) {
	t.Helper()
	if _, err := r.Ask(q); err != nil {
		t.Error(err)
	}
	if n := r.asked.Load(); n != requests {
		t.Errorf("%d requests in all, want %d", n, requests)
	}
}

// A yes is kept as long as configured, and not a nanosecond longer.
func TestYesIsKept(t *testing.T) {
	r := newRig(t, Config{Cache: 30 * time.Second}, says(`{"decision_id":"d-1","result":true}`))
	mustAsk(t, r, question(), 1)
	r.clock.pass(30*time.Second - 1)
	if decision, err := r.Ask(question()); decision != "d-1" || err != nil || r.outcome(OutcomeCached) != 1 {
		t.Errorf("decision %q, error %v, outcomes %v", decision, err, r.outcomes)
	}
	r.clock.pass(1)
	mustAsk(t, r, question(), 2)

	r = newRig(t, Config{}, says(`{"result":true}`))
	mustAsk(t, r, question(), 1)
	mustAsk(t, r, question(), 2) // cache: 0s
}

// Answers are bound to what was asked: new claims, another source, session or service ask anew. A new port, later
// times and a deadline that moved do not.
func TestKeptAnswersAreBoundToTheQuestion(t *testing.T) {
	r := newRig(t, Config{Cache: time.Hour}, says(`{"result":true}`))
	mustAsk(t, r, question(), 1)
	same := question()
	same.Source = netip.MustParseAddrPort("10.1.2.3:1")
	same.Session.Deadline = same.Session.Deadline.Add(-time.Minute)
	r.clock.pass(time.Minute)
	mustAsk(t, r, same, 1)
	for i, change := range []func(*Question){
		func(q *Question) { q.Source = netip.MustParseAddrPort("10.1.2.4:4711") },
		func(q *Question) { q.Session.ID[0]++ },
		func(q *Question) { q.Session.Method = "token" },
		func(q *Question) { q.Session.Created = q.Session.Created.Add(1) },
		func(q *Question) { q.Session.Identity.Issuer += "/" },
		func(q *Question) { q.Session.Identity.Subject = "bob" },
		func(q *Question) { q.Session.Identity.Name = "Alice" },
		func(q *Question) { q.Session.Identity.Email = "alice@example.com" },
		func(q *Question) { q.Session.Identity.Groups = nil },
		func(q *Question) { q.Session.Identity.Groups = []string{"dba", "sre"} },
		func(q *Question) { q.Session.Identity.ACR = "" },
		func(q *Question) { q.Session.Identity.AMR = []string{"pwd"} },
		func(q *Question) { q.Session.Identity.AuthTime = time.Unix(1, 0) },
	} {
		q := question()
		change(&q)
		mustAsk(t, r, q, int64(2+i))
		mustAsk(t, r, q, int64(2+i))
	}
}

// A no is kept for a second, so that who hammers at a door does not hammer at the engine; a failure not at all.
func TestNoIsNotKept(t *testing.T) {
	var body atomic.Value
	body.Store(`{"result":false}`)
	r := newRig(t, Config{Cache: time.Hour}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body.Load().(string)) })
	_, err := r.Ask(question())
	mustDeny(t, err, "does not allow it")
	body.Store(`{}`)
	_, err = r.Ask(question())
	mustDeny(t, err, "does not allow it")
	if n := r.asked.Load(); n != 1 {
		t.Errorf("%d requests within the second", n)
	}
	r.clock.pass(maxNo)
	_, err = r.Ask(question())
	mustDeny(t, err, "undefined")
	body.Store(`{"result":true}`)
	mustAsk(t, r, question(), 3)
}

// The cache does not grow without end.
func TestCacheIsBounded(t *testing.T) {
	clock := &fakeClock{}
	c := cache{life: time.Hour, clock: clock, kept: map[key]kept{}}
	for i := range maxCached + 100 {
		var k key
		copy(k[:], fmt.Sprint(i))
		c.put(k, answer{allow: true}, 0)
		if _, ok := c.get(k, 0); !ok {
			t.Fatal("the newest is not kept")
		}
	}
	if len(c.kept) != maxCached {
		t.Errorf("%d answers are kept", len(c.kept))
	}
}

// held plays an engine that says yes once it is released.
func held(t *testing.T, c Config) (r *rig, release func()) {
	hold := make(chan struct{})
	release = sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	c.Timeout = jose.Timeout
	return newRig(t, c, func(w http.ResponseWriter, req *http.Request) {
		<-hold
		says(`{"result":true}`)(w, req)
	}), release
}

// waitAsked waits until the engine has n requests.
func (r *rig) waitAsked(t *testing.T, n int64) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); r.asked.Load() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d requests, want %d", r.asked.Load(), n)
		}
	}
}

// Many who ask the same at once are one request.
func TestFlight(t *testing.T) {
	r, release := held(t, Config{Cache: time.Hour})
	var asking, begun sync.WaitGroup
	for range 2 * maxAsking {
		begun.Add(1)
		asking.Go(func() {
			begun.Done()
			if _, err := r.Ask(question()); err != nil {
				t.Error(err)
			}
		})
	}
	begun.Wait()
	r.waitAsked(t, 1)
	release()
	asking.Wait()
	if n := r.asked.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// Beyond 64 different questions newcomers are refused at once, and who has a connection to lose waits for a place.
func TestCrowd(t *testing.T) {
	r, release := held(t, Config{})
	other := func(i int) Question {
		q := question()
		q.Session.ID[0] = byte(i)
		return q
	}
	var asking sync.WaitGroup
	for i := range maxAsking {
		asking.Go(func() {
			if _, err := r.Ask(other(i)); err != nil {
				t.Error(err)
			}
		})
	}
	r.waitAsked(t, maxAsking)
	_, err := r.Ask(other(200))
	mustDeny(t, err, "64 questions are under way already")
	if r.outcome(OutcomeBusy) != 1 {
		t.Errorf("outcomes %v", r.outcomes)
	}
	asking.Go(func() {
		if _, err := r.Round().Ask(context.Background(), other(201)); err != nil {
			t.Error(err)
		}
	})
	release()
	asking.Wait()
	if n := r.asked.Load(); n != maxAsking+1 {
		t.Errorf("%d requests", n)
	}
}
