// SPDX-License-Identifier: Apache-2.0

package opinion

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// What comes of asking, for counting.
const (
	OutcomeAllowed   = "allowed"
	OutcomeDenied    = "denied"
	OutcomeCached    = "cached"    // the answer, whichever, was known from before
	OutcomeUndefined = "undefined" // the engine has no decision there
	OutcomeMalformed = "malformed" // the answer is not one
	OutcomeTimeout   = "timeout"
	OutcomeError     = "error" // not reached, or its answer is an error or a redirect
	OutcomeBusy      = "busy"  // too many questions under way: it was not asked
)

// maxAsking is how many requests to the engine of one service may be under way.
const maxAsking = 64

// failure is why there is no answer.
type failure struct {
	outcome string
	err     error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// engine is that of one service. Safe for concurrent use.
type engine struct {
	url, token string
	timeout    time.Duration
	client     *http.Client
	count      func(outcome string)
	asking     chan struct{} // holds one for each request under way
	flight     singleflight.Group
	cache      cache
}

// decide returns the engine's answer, one that is shared in flight, or one that it was asked for since an instant to the same
// question; the error is a *failure. Patient waits within the timeout where too many ask.
func (e *engine) decide(in input, flight *singleflight.Group, since session.Instant, patient bool) (answer, error) {
	k, err := in.key()
	if err != nil {
		return answer{}, &failure{OutcomeError, err}
	}
	v, err, _ := flight.Do(string(k[:]), func() (any, error) {
		if a, ok := e.cache.get(k, since); ok {
			e.count(OutcomeCached)
			return a, nil
		}
		asked := e.cache.clock.Boot()
		a, err := e.ask(in, patient)
		if err == nil {
			e.cache.put(k, a, asked)
		}
		e.count(outcomeOf(a, err))
		return a, err
	})
	return v.(answer), err
}

func outcomeOf(a answer, err error) string {
	var f *failure
	switch {
	case errors.As(err, &f):
		return f.outcome
	case a.allow:
		return OutcomeAllowed
	}
	return OutcomeDenied
}

// ask makes one request. The error is a *failure; the decision may be known beside it.
func (e *engine) ask(in input, patient bool) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), e.timeout)
	defer cancel()
	if err := e.enter(ctx, patient); err != nil {
		return answer{}, &failure{OutcomeBusy, err}
	}
	defer func() { <-e.asking }()
	body, err := e.post(ctx, in)
	switch {
	case errors.Is(err, jose.ErrTooBig):
		return answer{}, &failure{OutcomeMalformed, err}
	case err != nil && ctx.Err() != nil:
		return answer{}, &failure{OutcomeTimeout, fmt.Errorf("no answer within %s", e.timeout)}
	case err != nil:
		return answer{}, &failure{OutcomeError, err}
	}
	a, err := parse(body)
	switch {
	case errors.Is(err, errUndefined):
		return a, &failure{OutcomeUndefined, err}
	case err != nil:
		return a, &failure{OutcomeMalformed, err}
	}
	return a, nil
}

// enter takes a place among those who ask.
func (e *engine) enter(ctx context.Context, patient bool) error {
	select {
	case e.asking <- struct{}{}:
		return nil
	default:
	}
	if patient {
		select {
		case e.asking <- struct{}{}:
			return nil
		case <-ctx.Done():
		}
	}
	return fmt.Errorf("%d questions are under way already", maxAsking)
}

// post sends the question and returns the body of the answer.
func (e *engine) post(ctx context.Context, in input) ([]byte, error) {
	body, err := in.body()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if e.token != "" {
		req.Header.Set("Authorization", "Bearer "+e.token)
	}
	// Not sent, but it tells net/http that to ask twice does no harm: so a connection that the engine closed just now
	// is no failure.
	req.Header["Idempotency-Key"] = nil
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the engine answers %s", resp.Status)
	}
	return io.ReadAll(resp.Body)
}
