// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/agent/opinion"
	"github.com/curfew-proxy/curfew/agent/session"
)

// askingAgain is about how many connections that live engines are asked at once: fewer than one may be asked about, so that
// there is room for new ones.
const askingAgain = 32

// engines translates the configured policy engines for package opinion.
func (b *bundle) engines() []opinion.Config {
	var list []opinion.Config
	for _, s := range b.Config.Services {
		o := s.OPA
		if o == nil {
			continue
		}
		c := opinion.Config{Service: s.Name, URL: o.URL, Timeout: o.Timeout, Cache: o.Cache, CA: b.Files[o.CAFile]}
		if list := b.tokens(o.TokenFile); len(list) > 0 {
			c.Token = list[0]
		}
		list = append(list, c)
	}
	return list
}

// newEngines makes the engines of b, which know no answers yet.
func (p *proxyProcess) newEngines(b *bundle) (*opinion.Engines, error) {
	return opinion.New(b.engines(), b.Config.Name, p.clock, p.metrics.Opinion)
}

// Authorize implements proxy.Policy with the policy of the moment, and then the engine of the service, which may take as
// long as its timeout.
func (p *proxyProcess) Authorize(s session.Session, service string, source netip.AddrPort) (decision string, err error) {
	if err := p.policy.Load().Authorize(s, service, source); err != nil {
		return "", err
	}
	return p.engines.Load().Ask(opinion.Question{Session: s, Service: service, Source: source})
}

// live is a connection that lives, with its session.
type live struct {
	session session.Session
	conn    *session.Connection
}

// reauthoriseAll ends those connections that policy does not allow any longer. Engines are asked last: one that is slow
// delays nothing that can be decided here.
func (p *proxyProcess) reauthoriseAll(ctx context.Context, list []live) {
	var asked errgroup.Group
	asked.SetLimit(askingAgain)
	engines := p.engines.Load()
	round := engines.Round()
	var doubtful []live
	for _, l := range list {
		if err := p.policy.Load().Reauthorize(l.session, l.conn.Service, l.conn.Source); err != nil {
			p.disallow(ctx, l, "", err)
		} else if engines.Has(l.conn.Service) {
			doubtful = append(doubtful, l)
		}
	}
	for _, l := range doubtful {
		asked.Go(func() error {
			decision, err := round.Ask(ctx, opinion.Question{Session: l.session, Service: l.conn.Service, Source: l.conn.Source})
			if err != nil && ctx.Err() == nil { // else we stop, and know nothing
				p.disallow(ctx, l, decision, err)
			}
			return nil
		})
	}
	_ = asked.Wait() // they return none
}

// disallow ends a connection that policy does not allow any longer.
func (p *proxyProcess) disallow(ctx context.Context, l live, decision string, err error) {
	p.log.Warn("policy no longer allows a connection",
		withDecision([]any{"session", l.session.ID, "connection", l.conn.ID, "service", l.conn.Service, "error", err}, decision)...)
	why := session.ReasonPolicy
	if session.ReasonOf(err) == session.ReasonStepUp {
		why = session.ReasonStepUp
	}
	p.gate.because(l.conn, why)
	p.cut(ctx, l.conn)
}
