// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"slices"

	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/agent/session"
)

// What becomes of a provider that is taken out of the configuration: its word is worth nothing any more, and neither are the
// sessions that were made on it. They end, on every node of a cluster, by a reload as by a restart.

// prepareProviders is a part of prepare. Browsers go on coming back to where they did at the start: that address is one of
// what a reload does not take over.
func (p *proxyProcess) prepareProviders(b *bundle) (func(), error) {
	take, err := p.providers.Prepare(b.providers(p.begun.Config.URL))
	if err != nil {
		return nil, err
	}
	return func() {
		for _, out := range take() {
			p.log.Warn("provider taken out of the configuration: its sessions end", "provider", out.Name(), "issuer", out.Issuer())
			p.endTakenOut(append(p.vault.Of(out), p.distrusted(func(s *session.Session) bool { return s.Identity.Issuer == out.Issuer() })...))
		}
	}, nil
}

// endForsaken ends the sessions of providers that were taken out while the agent was down. Of those that began at other nodes
// of a cluster these know better.
func (p *proxyProcess) endForsaken() error {
	mine := func(s *session.Session) bool {
		return p.cluster == nil || s.Origin.Node == p.cluster.time.Self().Node
	}
	p.endTakenOut(append(p.forsaken, p.distrusted(mine)...))
	return nil
}

// distrusted are those of some sessions whose users signed in at an issuer that no provider of the configuration has.
func (p *proxyProcess) distrusted(which func(*session.Session) bool) (list []session.ID) {
	trusted := func(issuer string) bool {
		return slices.ContainsFunc(p.providers.All(), func(q *identity.Provider) bool { return q.Issuer() == issuer })
	}
	where := func(s session.Session, _ []*session.Connection) bool {
		return (s.Method == session.MethodBrowser || s.Method == session.MethodDevice) && which(&s) && !trusted(s.Identity.Issuer)
	}
	for _, found := range p.table.Select(session.Selector{Where: where}, false) {
		list = append(list, found.Session.ID)
	}
	return list
}

func (p *proxyProcess) endTakenOut(ids []session.ID) {
	if len(ids) == 0 {
		return
	}
	if _, err := p.table.EndAll(ids, identity.TakenOut()); err != nil {
		p.log.Error("end sessions of a provider that was taken out", "error", err)
	}
}
