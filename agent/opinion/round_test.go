// SPDX-License-Identifier: Apache-2.0

package opinion

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A connection that lives is not lost for a passing fault; for a lasting one, and for a no, it is.
func TestRound(t *testing.T) {
	var bad atomic.Int64
	r := newRig(t, Config{Timeout: 50 * time.Millisecond}, func(w http.ResponseWriter, req *http.Request) {
		if bad.Add(-1) >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		says(`{"result":true}`)(w, req)
	})
	bad.Store(1)
	if _, err := r.Round().Ask(t.Context(), question()); err != nil || r.asked.Load() != 2 {
		t.Errorf("error %v after %d requests", err, r.asked.Load())
	}
	bad.Store(2)
	began := time.Now()
	_, err := r.Round().Ask(t.Context(), question())
	mustDeny(t, err, "503")
	if took := time.Since(began); took < 50*time.Millisecond || r.asked.Load() != 4 {
		t.Errorf("given up after %v and %d requests", took, r.asked.Load())
	}
	r = newRig(t, Config{}, says(`{"result":false}`))
	_, err = r.Round().Ask(t.Context(), question())
	mustDeny(t, err, "does not allow it")
	if n := r.asked.Load(); n != 1 {
		t.Errorf("a no is asked about %d times", n)
	}
	q := question()
	q.Service = "other"
	if _, err := r.Round().Ask(t.Context(), q); err != nil || r.asked.Load() != 1 {
		t.Errorf("a service without an engine: %v", err)
	}
}

// What was said before something changed does not count: not what is kept, and not what is on its way. What is said in the
// round does, for the same question, and for new connections.
func TestRoundForgetsWhatWasSaidBefore(t *testing.T) {
	var body atomic.Value
	body.Store(`{"decision_id":"old","result":true}`)
	r := newRig(t, Config{Timeout: 500 * time.Millisecond, Cache: time.Hour}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body.Load().(string)) })
	mustAsk(t, r, question(), 1)
	r.clock.pass(1)
	body.Store(`{"decision_id":"new","result":true}`)
	round := r.Round()
	for range 2 {
		if decision, err := round.Ask(t.Context(), question()); decision != "new" || err != nil || r.asked.Load() != 2 {
			t.Errorf("decision %q, error %v, after %d requests", decision, err, r.asked.Load())
		}
	}
	mustAsk(t, r, question(), 2)
	r.clock.pass(1)
	body.Store(`{}`) // no decision
	_, err := r.Round().Ask(t.Context(), question())
	mustDeny(t, err, "undefined")
	if _, err := r.Ask(question()); err == nil {
		t.Error("a yes from before the change lets a new connection in")
	}
}

func TestRoundSharesNothingThatIsOnItsWay(t *testing.T) {
	r, release := held(t, Config{})
	var asking sync.WaitGroup
	asking.Go(func() {
		if _, err := r.Ask(question()); err != nil {
			t.Error(err)
		}
	})
	r.waitAsked(t, 1)
	asking.Go(func() {
		if _, err := r.Round().Ask(t.Context(), question()); err != nil {
			t.Error(err)
		}
	})
	r.waitAsked(t, 2)
	release()
	asking.Wait()
}

// However many live on the word of an engine that is gone, they do not live on for long.
func TestRoundWithoutAnEngine(t *testing.T) {
	const many, at = 2000, 32
	for name, serve := range map[string]http.HandlerFunc{
		"silent":    func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-r.Context().Done() },
		"hangs up":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"broken":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"no policy": says(`{}`),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{Timeout: 100 * time.Millisecond}, serve)
			round, turn := r.Round(), make(chan struct{}, at)
			began := time.Now()
			var asking sync.WaitGroup
			for i := range many {
				turn <- struct{}{}
				asking.Go(func() {
					defer func() { <-turn }()
					q := question()
					q.Session.ID[0], q.Session.ID[1] = byte(i), byte(i>>8)
					if _, err := round.Ask(t.Context(), q); err == nil {
						t.Error("let through")
					}
				})
			}
			asking.Wait()
			if took := time.Since(began); took > many/at*100*time.Millisecond { // if each waited, it would take twice that
				t.Errorf("it took %v", took)
			}
		})
	}
}

// An engine that says no to some, and has nothing to say of others, is asked about all: nobody is cut on the word about others.
func TestRoundWithAnEngineThatAnswersSome(t *testing.T) {
	var n atomic.Int64
	r := newRig(t, Config{Timeout: 20 * time.Millisecond}, func(w http.ResponseWriter, req *http.Request) {
		says(map[bool]string{true: `{}`, false: `{"result":true}`}[n.Add(1) <= 10])(w, req)
	})
	round := r.Round()
	for range 5 { // undefined, twice each
		if _, err := round.Ask(t.Context(), question()); err == nil {
			t.Error("let through")
		}
	}
	for r.asked.Load() < 10 {
		_, _ = round.Ask(t.Context(), question()) // later ones are asked about once
	}
	if _, err := round.Ask(t.Context(), question()); err != nil {
		t.Errorf("the engine answers now: %v", err)
	}
}

func TestRoundThatIsStopped(t *testing.T) {
	r := newRig(t, Config{Timeout: 9 * time.Second}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	ctx, stop := context.WithCancel(t.Context())
	stop()
	began := time.Now()
	_, err := r.Round().Ask(ctx, question())
	mustDeny(t, err, "500")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
