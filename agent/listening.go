// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"net/http"
	"reflect"
	"sync/atomic"

	"github.com/curfew-proxy/curfew/agent/signals"
)

// listening takes in what others tell the agent about sessions, as it is configured now: a token that has leaked must not be
// good until the next restart. Safe for concurrent use.
type listening struct {
	now   atomic.Pointer[heard]
	fresh chan struct{} // has room for one: Run has to begin anew
}

// heard is one configuration at work.
type heard struct {
	*signals.Signals
	config signals.Config // resolved: with what is in files
}

// prepare returns what listens as c says, and remembers which events have come; nil where nothing has changed.
func (l *listening) prepare(c signals.Config) (*heard, error) {
	next := &heard{config: c}
	if old := l.now.Load(); old != nil {
		if reflect.DeepEqual(tellers(old.config), tellers(c)) {
			return nil, nil
		}
		c.Before = old.Signals
	}
	var err error
	if next.Signals, err = signals.New(c); err != nil {
		return nil, err
	}
	return next, nil
}

// tellers is what c says of those who may tell us something.
func tellers(c signals.Config) signals.Config {
	return signals.Config{Transmitters: c.Transmitters, Provisioners: c.Provisioners, Webhooks: c.Webhooks}
}

// set takes what was prepared into service.
func (l *listening) set(next *heard) {
	if next == nil {
		return
	}
	l.now.Store(next)
	select {
	case l.fresh <- struct{}{}:
	default:
	}
}

// ServeHTTP implements http.Handler.
func (l *listening) ServeHTTP(w http.ResponseWriter, r *http.Request) { l.now.Load().ServeHTTP(w, r) }

// Run fetches events, by the configuration of the moment, until ctx is done. It returns nil.
func (l *listening) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		part, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- l.now.Load().Run(part) }()
		select {
		case <-ctx.Done():
		case <-l.fresh:
		}
		stop()
		if err := <-done; err != nil {
			return err
		}
	}
	return nil
}
