// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// strict keeps strict services from going on at a node that hears from no majority of its cluster: others may
// have ended sessions there that this node does not know of. Safe for concurrent use.
//
//	majority --(lost)--> waiting --(after)--> refusing --(after again)--> cut, and refusing
//	    ^                   |                    |                            |
//	    +-------------------+------(found)-------+----------------------------+
type strict struct {
	after    func() time.Duration
	services func() []string // the strict ones
	// cut ends the live connections of services, and returns when it has.
	cut func(ctx context.Context, services []string, why session.Reason)
	// changed is told when services begin to refuse, and when they do no more.
	changed func(suspended []string)

	mu      sync.Mutex
	since   time.Time     // of the loss; zero: there is a majority
	refuses bool          // after has passed since
	news    chan struct{} // has room for one: mu's fields have changed
}

func newStrict() *strict { return &strict{news: make(chan struct{}, 1)} }

// majority tells whether a majority is heard.
func (s *strict) majority(have bool) {
	s.mu.Lock()
	if have {
		s.since = time.Time{}
	} else if s.since.IsZero() {
		s.since = time.Now()
	}
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

var errNoMajority = errors.New("too few nodes of the cluster answer, and the service is strict")

// admit refuses a service that is suspended.
func (s *strict) admit(service string) error {
	s.mu.Lock()
	refuses := s.refuses
	s.mu.Unlock()
	if refuses && slices.Contains(s.services(), service) {
		return session.Refuse(session.ReasonNoMajority, errNoMajority)
	}
	return nil
}

// suspended names the services that refuse.
func (s *strict) suspended() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.refuses {
		return nil
	}
	return s.services()
}

// Run waits for losses of the majority until ctx is done.
func (s *strict) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.news:
		}
		if s.lost() && s.wait(ctx) {
			s.suspend(true)
			if s.wait(ctx) {
				s.cut(ctx, s.services(), session.ReasonNoMajority)
			}
			s.untilFound(ctx)
		}
		s.suspend(false)
	}
}

func (s *strict) lost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.since.IsZero()
}

// wait waits for a period, and reports whether there was no majority all the time.
func (s *strict) wait(ctx context.Context) bool {
	timer := time.NewTimer(s.after())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-s.news:
			if !s.lost() {
				return false
			}
		case <-timer.C:
			return s.lost()
		}
	}
}

func (s *strict) untilFound(ctx context.Context) {
	for s.lost() {
		select {
		case <-ctx.Done():
			return
		case <-s.news:
		}
	}
}

func (s *strict) suspend(refuses bool) {
	s.mu.Lock()
	same := s.refuses == refuses
	s.refuses = refuses
	s.mu.Unlock()
	if !same && len(s.services()) > 0 {
		s.changed(s.suspended())
	}
}

// describe says for people what a change of the majority means.
func (s *strict) describe(have bool) string {
	if have {
		return "a majority of the nodes answers again"
	}
	return fmt.Sprintf("no majority of the nodes answers; strict services refuse in %v", s.after())
}
