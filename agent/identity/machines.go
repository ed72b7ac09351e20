// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// MachinesConfig is what Machines needs. Count may be nil.
type MachinesConfig struct {
	Machines []MachineConfig
	Sessions Sessions
	Log      *slog.Logger
	Count    func(event string)
}

// Machines signs in machines by the tokens of their issuers. It is safe for concurrent use.
//
// A token is a bearer's: whoever has it can present it. So it makes sessions for the first client key only that
// it is presented with, for as long as it is good, and none any more once somebody has ended one of them.
type Machines struct {
	cfg      MachinesConfig
	now      func() time.Time
	list     atomic.Pointer[[]*machine]
	failures jose.FailureLimit
}

// NewMachines returns the configured machines, without contacting any issuer. Its errors name the machine.
func NewMachines(cfg MachinesConfig) (*Machines, error) {
	cfg.Count = orIgnore(cfg.Count)
	m := &Machines{cfg: cfg, now: time.Now}
	take, err := m.Prepare(cfg.Machines)
	if err != nil {
		return nil, err
	}
	take()
	return m, nil
}

// Prepare checks a new configuration, and returns what takes it into service. Keys that still come from the same place are
// kept. One is prepared and taken after the other.
func (ms *Machines) Prepare(configs []MachineConfig) (take func(), err error) {
	var old []*machine
	if p := ms.list.Load(); p != nil {
		old = *p
	}
	list := make([]*machine, len(configs))
	for i, c := range configs {
		m, err := newMachine(c, func() time.Time { return ms.now() })
		if err != nil {
			return nil, fmt.Errorf("machine %s: %w", c.Name, err)
		}
		for _, o := range old {
			if o.cfg.sameKeys(&c) {
				m.verifier.Keys = o.verifier.Keys // and their limit with them
			}
		}
		list[i] = m
	}
	return func() { ms.list.Store(&list) }, nil
}

// SignIn makes a session for a client key that has presented a token. An *api.Error says why it does not.
func (ms *Machines) SignIn(ctx context.Context, key session.Key, source netip.Addr, req api.LoginToken) (session.Session, error) {
	if !ms.failures.Admit(source, ms.now()) {
		ms.cfg.Count(EventMachineLimited)
		return session.Session{}, &api.Error{Code: api.CodeTooMany, Message: "too many tokens from this address were refused",
			Hint: "wait a minute; the agent's log says what was wrong with them"}
	}
	m, err := ms.find(req)
	if err != nil {
		return session.Session{}, ms.refuse(req.Machine, key, source, err)
	}
	s, err := ms.signIn(ctx, m, key, req.Token)
	if err != nil {
		return session.Session{}, ms.refuse(m.cfg.Name, key, source, err)
	}
	ms.cfg.Count(EventMachineCompleted)
	ms.cfg.Log.Info("machine signed in", "session", s.ID, "machine", m.cfg.Name, "subject", s.Identity.Subject, "source", source)
	return s, nil
}

func (ms *Machines) signIn(ctx context.Context, m *machine, key session.Key, token string) (session.Session, error) {
	p, err := m.check(ctx, token, ms.now())
	if err != nil {
		return session.Session{}, err
	}
	if err := ms.checkEnded(key, p); err != nil {
		return session.Session{}, err
	}
	wanted := NewSession{Identity: p.identity, Key: key, Method: session.MethodToken, Authenticated: p.issued, Credential: p.credential, NotAfter: p.expires}
	if m.cfg.OutliveToken {
		wanted.NotAfter = time.Time{}
	}
	s, err := ms.cfg.Sessions.Create(ctx, wanted)
	if err != nil {
		return session.Session{}, &notCreated{err}
	}
	return s, nil
}

// errEndedSince is returned for a token from before somebody ended the session of its key.
var errEndedSince = errors.New("the session was ended after the token was issued")

// checkEnded refuses a token that is no news: a session that was ended by somebody, and not by the clock, must
// not come back because the machine tries again. The token that made it is none, whatever the issuer's clock says.
func (ms *Machines) checkEnded(key session.Key, p proof) error {
	s, err := newestOf(ms.cfg.Sessions, key)
	switch {
	case errors.Is(err, session.ErrUnknownKey):
		return nil
	case err != nil:
		return &notCreated{fmt.Errorf("look up session: %w", err)}
	case s.Ended == nil || !p.issued.Before(s.Ended.At) && s.Credential != p.credential || endedByItself(s.Ended.Reason):
		return nil
	}
	return fmt.Errorf("%w: %s", errEndedSince, s.Ended.Reason)
}

// endedByItself reports whether nobody meant to keep the owner of a session out.
func endedByItself(r session.Reason) bool {
	switch r {
	case session.ReasonAbsolute, session.ReasonIdle, session.ReasonSuperseded, session.ReasonConflict, session.ReasonUnavailable:
		return true
	}
	return false
}

// errNoMachine is returned for a token of an issuer that is not configured, or not only once.
type errNoMachine struct{ message, hint string }

func (e *errNoMachine) Error() string { return e.message }

// find returns the machine that a token is for: by name, or by its issuer, who is not verified yet.
func (ms *Machines) find(req api.LoginToken) (*machine, error) {
	c, err := jose.Unverified(req.Token)
	if err != nil {
		return nil, err
	}
	iss, err := c.Text("iss")
	if err != nil {
		return nil, err
	}
	var found []*machine
	var names []string
	for _, m := range *ms.list.Load() {
		if m.cfg.Name == req.Machine || req.Machine == "" && m.cfg.Issuer == iss {
			found, names = append(found, m), append(names, m.cfg.Name)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, &errNoMachine{"several machines are configured for this issuer", "choose one with --machine: " + strings.Join(names, ", ")}
	case req.Machine != "":
		return nil, &errNoMachine{fmt.Sprintf("there is no machine %q here", jose.Printable(req.Machine)), "the operator knows their names: they are in the agent's configuration"}
	}
	return nil, &errNoMachine{fmt.Sprintf("tokens of the issuer %q are not taken here", jose.Printable(iss)), "ask the operator to add it to machines in the agent's configuration"}
}
