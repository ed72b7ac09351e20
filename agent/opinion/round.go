// SPDX-License-Identifier: Apache-2.0

package opinion

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Round asks again about connections that live, because something has changed: what an engine said before the round began
// does not count, and is not shared either. It would be a pity to lose connections for a passing fault, so an engine is
// given its timeout to recover. But connections that nobody allows must not live for long, however many they are: an
// engine from which nothing at all comes for twice its timeout is not asked any more. Safe for concurrent use.
type Round struct {
	*Engines
	since session.Instant

	mu     sync.Mutex // guards the map
	asking map[string]*asking
}

// asking is an engine that is asked in a round.
type asking struct {
	*engine
	flight singleflight.Group

	mu        sync.Mutex // guards the fields below
	undecided time.Time  // since when there was no decision: a yes or a no; zero: the last answer was one
	silent    time.Time  // since when there was no answer, of whatever kind; likewise
}

// Round begins one.
func (es *Engines) Round() *Round {
	return &Round{Engines: es, since: es.clock.Boot(), asking: map[string]*asking{}}
}

// Ask is Engines.Ask for a connection that lives. It may take three times the engine's timeout, unless ctx is done.
func (r *Round) Ask(ctx context.Context, q Question) (decision string, err error) {
	e := r.engine(q.Service)
	if e == nil {
		return "", nil
	}
	a, err := r.try(e, q)
	if left := e.recovery(err); left > 0 && !e.lost() {
		wait(ctx, left)
		a, err = r.try(e, q)
		e.recovery(err)
	}
	return a.decision, refusal(a, err)
}

func (r *Round) engine(service string) *asking {
	e := r.byName[service]
	if e == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asking[service] == nil {
		r.asking[service] = &asking{engine: e}
	}
	return r.asking[service]
}

func (r *Round) try(e *asking, q Question) (answer, error) {
	if e.lost() {
		return answer{}, &failure{OutcomeTimeout, fmt.Errorf("it has said nothing for twice its timeout, %s", e.timeout)}
	}
	return e.decide(newInput(q, r.node, r.clock.Wall()), &e.flight, r.since, true)
}

// recovery notes what came of a question, and returns how long the engine has to recover if that was no decision.
func (e *asking) recovery(err error) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	var f *failure
	if !errors.As(err, &f) {
		e.undecided, e.silent = time.Time{}, time.Time{}
		return 0
	}
	now := time.Now()
	if e.undecided.IsZero() {
		e.undecided = now
	}
	switch f.outcome {
	case OutcomeUndefined, OutcomeMalformed:
		e.silent = time.Time{}
	default:
		if e.silent.IsZero() {
			e.silent = now
		}
	}
	return e.timeout - now.Sub(e.undecided)
}

// lost reports whether the engine has had all its time.
func (e *asking) lost() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.silent.IsZero() && time.Since(e.silent) >= 2*e.timeout
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
