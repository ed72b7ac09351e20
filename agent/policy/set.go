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

// Set has the policies of all services. It is immutable: a reload makes a new one. Safe for
// concurrent use.
type Set struct {
	programs map[string]*Program
	now      func() time.Time
}

// NewSet compiles the policies, given as expressions by service name. Now reads the wall clock.
// Errors of an expression are Errors, wrapped with the service's name; all are reported.
func NewSet(exprs map[string]string, now func() time.Time) (*Set, error) {
	s := &Set{programs: make(map[string]*Program, len(exprs)), now: now}
	var errs []error
	for service, expr := range exprs {
		p, err := Compile(expr)
		if err != nil {
			errs = append(errs, fmt.Errorf("policy of service %q: %w", service, err))
			continue
		}
		s.programs[service] = p
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

// Authorize returns nil if the policy of service allows the session to be used from source, and
// a *session.Refusal with ReasonDenied in every other case, also when the policy cannot be
// evaluated.
func (s *Set) Authorize(sess session.Session, service string, source netip.AddrPort) error {
	p := s.programs[service]
	if p == nil {
		return session.Refuse(session.ReasonDenied, errNoPolicy)
	}
	ok, err := p.Allow(Input{Session: &sess, Service: service, Source: source.Addr(), Now: s.now()})
	switch {
	case err != nil:
		return session.Refuse(session.ReasonDenied, fmt.Errorf("policy of service %q: %w", service, err))
	case !ok:
		return session.Refuse(session.ReasonDenied, errDenied)
	}
	return nil
}
