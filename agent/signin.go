// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/agent/session"
)

// signIns implements identity.Sessions and identity.Services on the session table.
type signIns struct {
	table   *session.Table
	clock   session.Clock
	observe *observer
	config  func() *bundle
	heed    func() error // what kill --local ended is older than what is created from now on
	cluster *clusterNode // nil: this node is in none
	// authorise asks our own policy alone: a list of services is not worth a question to others for each.
	authorise func(s session.Session, service string, source netip.AddrPort) error
}

// Create implements identity.Sessions.
func (s *signIns) Create(_ context.Context, n identity.NewSession) (session.Session, error) {
	c := s.config().Config
	if err := checkBindAddrs(n.BindAddrs, c.BindAddress); err != nil {
		return session.Session{}, err
	}
	if err := errors.Join(s.heed(), s.cluster.ready()); err != nil {
		return session.Session{}, err
	}
	since := ago(n.Authenticated)
	begun := max(since, ago(n.Begun))
	absolute, err := s.lifetime(since, n.NotAfter)
	if err != nil {
		return session.Session{}, err
	}
	wanted := session.Session{Identity: n.Identity, Key: n.Key, Method: n.Method, IdleTimeout: c.Sessions.IdleTimeout, BindAddrs: n.BindAddrs,
		SID: n.SID, Credential: n.Credential, Born: session.OriginTime(s.clock.Boot().Add(-begun))}
	if err := s.checkToken(n); err != nil {
		return session.Session{}, err
	}
	if n.Revalidated {
		wanted.Validated = session.OriginTime(s.clock.Boot().Add(-since))
	}
	if old, err := s.table.ByKey(n.Key); err == nil {
		wanted.Supersedes = old.ID // the same person signs in again with the same key; another one is refused
	}
	// The table counts from when the sign-in began.
	made, err := s.table.Create(wanted, min(absolute+begun-since, session.MaxLifetime))
	if err != nil {
		return session.Session{}, err
	}
	s.observe.created(made, n.Identity.Issuer)
	return made, nil
}

// checkToken refuses the token of somebody who has to be authenticated anew, and of whom it does not say when they were, where people
// sign in at its issuer, too: it may have been had with nothing but the provider's single sign-on.
func (s *signIns) checkToken(n identity.NewSession) error {
	ofPeople := slices.ContainsFunc(s.config().Config.Providers, func(p config.Provider) bool { return p.Issuer == n.Identity.Issuer })
	if n.Method == session.MethodToken && ofPeople && n.Identity.AuthTime.IsZero() && !s.table.FreshSince(n.Identity, n.SID).IsZero() {
		return fmt.Errorf("create session: %w", session.ErrNotFresh)
	}
	return nil
}

// ago is how long ago an instant was; zero and the future are now.
func ago(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(0, time.Since(t))
}

// lifetime is how long a session may last, from when its user was authenticated, which is since ago. It must be
// over at an instant, if that is not zero.
func (s *signIns) lifetime(since time.Duration, notAfter time.Time) (time.Duration, error) {
	absolute := s.config().Config.Sessions.AbsoluteTimeout
	if !notAfter.IsZero() {
		absolute = min(absolute, since+notAfter.Sub(s.clock.Wall()))
	}
	if absolute <= since {
		return 0, &api.Error{Code: api.CodeTokenRefused, Message: "what was signed in with is too old for a session to be left", Hint: "sign in with something fresh"}
	}
	return absolute, nil
}

// ByKey implements identity.Sessions.
func (s *signIns) ByKey(key session.Key) (session.Session, error) {
	return lookup{s.table, s.cluster}.ByKey(key)
}

// End implements identity.Sessions.
func (s *signIns) End(_ context.Context, id session.ID, end session.End) error {
	_, err := s.table.End(id, end)
	var over *session.EndedError
	if errors.As(err, &over) {
		return nil
	}
	return err
}

// Validate implements identity.Validator.
func (s *signIns) Validate(id session.ID, who session.Identity) error {
	return s.table.Validate(id, who)
}

// Identity implements identity.Validator.
func (s *signIns) Identity(id session.ID) (session.Identity, bool) {
	v, err := s.table.ByID(id)
	return v.Identity, err == nil
}

// ServicesFor implements identity.Services.
func (s *signIns) ServicesFor(v session.Session, source netip.AddrPort) []api.Service {
	var list []api.Service
	for _, svc := range s.config().userServices() {
		err := s.authorise(v, svc.Name, source)
		var refusal *session.Refusal
		if errors.As(err, &refusal) && refusal.Reason == session.ReasonStepUp { // within the user's reach
			svc.Missing, err = refusal.Err.Error(), nil
		}
		if err == nil {
			list = append(list, svc)
		}
	}
	return list
}

// checkBindAddrs refuses source addresses that the configuration does not let users bind.
func checkBindAddrs(addrs []netip.Addr, c config.BindAddress) error {
	if len(addrs) > 0 && !c.Enabled {
		return &api.Error{Code: api.CodeForbidden, Message: "binding a source address is switched off at this agent",
			Hint: "use curfew connect; or ask the operator for bind_address: {enabled: true}"}
	}
	for _, a := range addrs {
		if !a.IsPrivate() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !c.AllowPublic {
			return &api.Error{Code: api.CodeForbidden, Message: fmt.Sprintf("%v is a public address: others may share it", a),
				Hint: "use curfew connect; or ask the operator for bind_address: {allow_public: true}"}
		}
	}
	return nil
}
