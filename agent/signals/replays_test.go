// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestReplays(t *testing.T) {
	c := &clock{t: time.Now()}
	r := newReplays(time.Hour, c.now)
	r.max = 3
	acted := 0
	once := func(jti, content string, fail error) (bool, error) {
		return r.once(t.Context(), jti, digestOf(content), func() error { acted++; return fail })
	}
	broken := errors.New("broken")
	if _, err := once("a", "1", broken); !errors.Is(err, broken) || acted != 1 {
		t.Fatalf("%v, acted %d times", err, acted)
	}
	if again, err := once("a", "1", nil); again || err != nil || acted != 2 {
		t.Errorf("after a failure: %v, %v, acted %d times", again, err, acted)
	}
	if again, err := once("a", "1", nil); !again || err != nil || acted != 2 {
		t.Errorf("again: %v, %v, acted %d times", again, err, acted)
	}
	if _, err := once("a", "2", nil); !errors.Is(err, errReused) || acted != 2 {
		t.Errorf("another with the same jti: %v, acted %d times", err, acted)
	}
	c.add(time.Minute)
	for _, jti := range []string{"b", "c"} {
		if _, err := once(jti, "1", nil); err != nil {
			t.Error(err)
		}
	}
	if _, err := once("d", "1", nil); !errors.Is(err, errFull) || acted != 4 {
		t.Errorf("when full: %v, acted %d times", err, acted)
	}
	if again, err := once("b", "1", nil); !again || err != nil {
		t.Errorf("a known one when full: %v, %v", again, err)
	}
	c.add(time.Hour - time.Second)
	if _, err := once("d", "1", nil); err != nil {
		t.Errorf("after the first is forgotten: %v", err)
	}
	if again, err := once("b", "1", nil); !again || err != nil {
		t.Errorf("the second is forgotten too early: %v, %v", again, err)
	}
	c.add(2 * time.Hour)
	if again, err := once("a", "1", nil); again || err != nil || len(r.done) != 1 || len(r.order) != 1 {
		t.Errorf("after all are forgotten: %v, %v, %d known", again, err, len(r.done))
	}
}

// The same SET comes many times at once: it is acted upon once, and nobody is told that it is done before it is.
func TestReplaysAtOnce(t *testing.T) {
	r := newReplays(time.Hour, time.Now)
	var acted, done atomic.Int32
	var began, group sync.WaitGroup
	release := make(chan struct{})
	began.Add(1)
	const many = 20
	for range many {
		group.Go(func() {
			_, err := r.once(context.Background(), "a", digestOf("1"), func() error {
				began.Done() // panics the second time
				<-release
				acted.Add(1)
				return nil
			})
			if err != nil || acted.Load() != 1 {
				t.Errorf("%v, acted %d times", err, acted.Load())
			}
			done.Add(1)
		})
	}
	began.Wait()
	if _, err := r.once(context.Background(), "a", digestOf("2"), nil); !errors.Is(err, errReused) {
		t.Errorf("another with the same jti meanwhile: %v", err)
	}
	hungUp, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.once(hungUp, "a", digestOf("1"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("who has hung up: %v", err)
	}
	if n := done.Load(); n != 0 {
		t.Errorf("%d were told that it is done", n)
	}
	close(release)
	group.Wait()
}

// What fails fails for all who wait, and is tried again for the next.
func TestReplaysFailAtOnce(t *testing.T) {
	r := newReplays(time.Hour, time.Now)
	began, release := make(chan struct{}), make(chan struct{})
	broken := errors.New("broken")
	var group sync.WaitGroup
	group.Go(func() {
		_, err := r.once(context.Background(), "a", digestOf("1"), func() error { close(began); <-release; return broken })
		if !errors.Is(err, broken) {
			t.Error(err)
		}
	})
	<-began
	group.Go(func() {
		if _, err := r.once(context.Background(), "a", digestOf("1"), func() error { return nil }); err != nil && !errors.Is(err, broken) {
			t.Error(err)
		}
	})
	close(release)
	group.Wait()
	if _, err := r.once(t.Context(), "a", digestOf("1"), func() error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestReplaysForgetAfterPanic(t *testing.T) {
	r := newReplays(time.Hour, time.Now)
	func() {
		defer func() { _ = recover() }()
		_, _ = r.once(t.Context(), "a", digestOf("1"), func() error { panic("bug") })
	}()
	if again, err := r.once(t.Context(), "a", digestOf("1"), func() error { return nil }); again || err != nil {
		t.Errorf("%v, %v", again, err)
	}
}

// RFC 8935, section 2: who sends an event again gets the same answer. It must not end what has begun since.
func TestRedelivery(t *testing.T) {
	g := newRig(t)
	r := g.receiver()
	claims := g.claims(revoked, alice(), nil)
	token := g.sign(claims)
	g.sessions.set(errors.New("disk full"))
	if err := r.take(t.Context(), token, "test"); !errors.Is(err, errNotDone) {
		t.Fatalf("sessions that cannot be ended: %v", err)
	}
	g.sessions.set(nil)
	for range 3 {
		if err := r.take(t.Context(), token, "test"); err != nil {
			t.Error(err)
		}
	}
	if did, counted := g.sessions.taken(), g.counts.all(); len(did) != 1 || counted != "event-ended:1 event-failed:1 event-repeated:2" {
		t.Errorf("did %q, counted %s", did, counted)
	}
	claims["sub_id"] = object{"format": "iss_sub", "iss": provider, "sub": "bob"}
	var refused *refusal
	if err := r.take(t.Context(), g.sign(claims), "test"); !errors.As(err, &refused) || refused.code != codeRequest {
		t.Errorf("another event with the same jti: %v", err)
	}
	g.clock.add(24*time.Hour + 2*time.Second)
	if err := r.take(t.Context(), token, "test"); !errors.As(err, &refused) {
		t.Errorf("after its maximum age: %v", err)
	}
	if did := g.sessions.taken(); len(did) != 0 {
		t.Errorf("did %q", did)
	}
}

// A new configuration remembers what came before it, of the same transmitter.
func TestEventsAreRememberedAcrossConfigurations(t *testing.T) {
	g := newRig(t)
	first := g.signals()
	token := g.sign(g.claims(revoked, alice(), nil))
	push(first, token)
	g.cfg.Tokens, g.cfg.MaxAge = []string{strings.Repeat("n", 40)}, 48*time.Hour
	second := g.signals(func(c *Config) { c.Before = first })
	if w := push(second, token); w.Code != http.StatusBadRequest {
		t.Errorf("with the token from before: %d", w.Code)
	}
	if w := push(second, token, "Authorization", ""); w.Code != http.StatusBadRequest {
		t.Errorf("with two: %d", w.Code)
	}
	w := ask(second, "POST", "/v1/signals/corp", token, "Authorization", "Bearer "+g.cfg.Tokens[0], "Content-Type", "application/secevent+jwt")
	if did := g.sessions.taken(); w.Code != http.StatusAccepted || len(did) != 1 || g.counts.of(EventRepeated) != 1 {
		t.Errorf("again: %d, did %q", w.Code, did)
	}
	if keep := second.receivers["corp"].seen.keep; keep < 48*time.Hour || second.cfg.Before != nil {
		t.Errorf("events are kept for %v", keep)
	}
	g.cfg.Issuer += "/other"
	if third := g.signals(func(c *Config) { c.Before = second }); third.receivers["corp"].seen == second.receivers["corp"].seen {
		t.Error("those of another transmitter are taken for its own")
	}
}

func TestTooManyEvents(t *testing.T) {
	g := newRig(t)
	r := g.receiver()
	r.seen.max = 2
	for i, want := range []error{nil, nil, errFull} {
		if err := r.take(t.Context(), g.sign(g.claims(revoked, alice(), nil)), "test"); !errors.Is(err, want) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if counted := g.counts.all(); counted != "event-ended:2 event-full:1" {
		t.Errorf("counted %s", counted)
	}
}

func BenchmarkReplays(b *testing.B) {
	r := newReplays(time.Hour, time.Now)
	for i := range b.N {
		_, _ = r.once(b.Context(), fmt.Sprint(i%maxReplays), digestOf("1"), func() error { return nil })
	}
}
