// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

var (
	errNoPolicy = errors.New("the service has no policy")
	errDenied   = errors.New("the service's policy does not allow it")
)

// Rule is what a service asks of those who want to use it.
type Rule struct {
	Allow   string              // an expression; see Compile
	Require session.Requirement // of how they were authenticated
}

type rule struct {
	program *Program
	require session.Requirement
}

// Set has the policies of all services. It is immutable: a reload makes a new one. Safe for
// concurrent use.
type Set struct {
	rules map[string]rule
	now   func() time.Time
}

// NewSet compiles the rules, given by service name. Now reads the wall clock. Errors of an expression are Errors, wrapped with
// the service's name; all are reported.
func NewSet(rules map[string]Rule, now func() time.Time) (*Set, error) {
	s := &Set{rules: make(map[string]rule, len(rules)), now: now}
	var errs []error
	for service, r := range rules {
		p, err := Compile(r.Allow)
		if err != nil {
			errs = append(errs, fmt.Errorf("policy of service %q: %w", service, err))
			continue
		}
		s.rules[service] = rule{p, r.Require}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

// Authorize returns nil if the rule of service allows the session to begin a connection from source, and a *session.Refusal
// in every other case, also when the policy cannot be evaluated: with ReasonStepUp if another sign-in of the same user
// would do, else with ReasonDenied.
func (s *Set) Authorize(sess session.Session, service string, source netip.AddrPort) error {
	return s.authorize(sess, service, source, false)
}

// Reauthorize is Authorize for a connection that lives. Its sign-in may be older by now than those of new ones.
func (s *Set) Reauthorize(sess session.Session, service string, source netip.AddrPort) error {
	return s.authorize(sess, service, source, true)
}

func (s *Set) authorize(sess session.Session, service string, source netip.AddrPort, live bool) error {
	r, now := s.rules[service], s.now()
	if r.program == nil {
		return session.Refuse(session.ReasonDenied, errNoPolicy)
	}
	ok, err := r.program.Allow(Input{Session: &sess, Service: service, Source: source.Addr(), Now: now})
	switch {
	case err != nil:
		return session.Refuse(session.ReasonDenied, fmt.Errorf("policy of service %q: %w", service, err))
	case !ok:
		return session.Refuse(session.ReasonDenied, errDenied)
	}
	require := r.require
	if live {
		require = require.Ageless()
	}
	if lacks := require.Missing(sess.Identity, now); lacks != "" {
		return session.Refuse(session.ReasonStepUp, errors.New(lacks))
	}
	return nil
}
