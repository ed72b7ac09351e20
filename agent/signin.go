// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/agent/session"
)

// signIns implements identity.Sessions and identity.Services on the session table.
type signIns struct {
	table    *session.Table
	observe  *observer
	timeouts func() (absolute, idle time.Duration)
	// services lists what is configured, authorise asks the policy.
	services  func() []api.Service
	authorise func(s session.Session, service string, source netip.Addr) error
}

// Create implements identity.Sessions.
func (s *signIns) Create(_ context.Context, n identity.NewSession) (session.Session, error) {
	absolute, idle := s.timeouts()
	made, err := s.table.Create(session.Session{Identity: n.Identity, Key: n.Key, Method: n.Method, IdleTimeout: idle, BindAddrs: n.BindAddrs}, absolute)
	if err != nil {
		return session.Session{}, err
	}
	s.observe.created(made, n.Identity.Issuer)
	return made, nil
}

// ByKey implements identity.Sessions.
func (s *signIns) ByKey(key session.Key) (session.Session, error) { return s.table.ByKey(key) }

// End implements identity.Sessions.
func (s *signIns) End(_ context.Context, id session.ID, end session.End) error {
	_, err := s.table.End(id, end)
	var over *session.EndedError
	if errors.As(err, &over) {
		return nil
	}
	return err
}

// ServicesFor implements identity.Services.
func (s *signIns) ServicesFor(v session.Session, source netip.Addr) []api.Service {
	var list []api.Service
	for _, svc := range s.services() {
		if s.authorise(v, svc.Name, source) == nil {
			list = append(list, svc)
		}
	}
	return list
}
