// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"log/slog"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/agent/session"
)

// The sessions of a provider that is taken out of the configuration end, whatever they were made with, and nobody else's do:
// while the agent runs, and when it comes back.
func TestProviderIsTakenOut(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	corp := config.Provider{Name: "corp", Issuer: "https://corp.example", ClientID: "us", GroupsClaim: "groups"}
	other := config.Provider{Name: "other", Issuer: "https://other.example", ClientID: "us", GroupsClaim: "groups"}
	second := config.Provider{Name: "second", Issuer: corp.Issuer, ClientID: "second", GroupsClaim: "groups"}
	with := func(list ...config.Provider) *bundle {
		c := config.Default()
		c.URL, c.Providers = "https://agent.example", list
		return &bundle{Config: c}
	}
	for name, tc := range map[string]struct {
		before, after []config.Provider
		restart       bool
		ended         map[string]bool
	}{
		"taken out":      {[]config.Provider{corp, other}, []config.Provider{other}, false, map[string]bool{"held": true, "from before": true}},
		"while down":     {nil, []config.Provider{other}, true, map[string]bool{"held": true, "from before": true}},
		"another client": {[]config.Provider{corp, other}, []config.Provider{second, other}, false, map[string]bool{"held": true}},
		"nothing":        {[]config.Provider{corp, other}, []config.Provider{other, corp}, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := session.NewTable(session.TableConfig{Clock: hostclock.Clock{}})
			if err != nil {
				t.Fatal(err)
			}
			first := tc.before
			if tc.restart {
				first = tc.after
			}
			p := &proxyProcess{table: table, log: log, begun: with(first...), vault: identity.NewVault(log, nil)}
			if p.providers, err = identity.NewProviders(p.begun.providers(p.begun.Config.URL), log); err != nil {
				t.Fatal(err)
			}
			made := map[string]session.ID{}
			for i, s := range []session.Session{
				{Method: identity.MethodBrowser, Identity: session.Identity{Issuer: corp.Issuer, Subject: "held"}},
				{Method: identity.MethodDevice, Identity: session.Identity{Issuer: corp.Issuer, Subject: "from before"}},
				{Method: "token", Identity: session.Identity{Issuer: corp.Issuer, Subject: "machine"}},
				{Method: methodControl, Identity: session.Identity{Issuer: methodControl, Subject: "operator's"}},
				{Method: identity.MethodBrowser, Identity: session.Identity{Issuer: other.Issuer, Subject: "of another"}},
			} {
				s.Key = session.Key{byte(i + 1)}
				now, err := table.Create(s, time.Hour)
				if err != nil {
					t.Fatal(err)
				}
				made[s.Identity.Subject] = now.ID
			}
			if tc.restart {
				p.forsaken = []session.ID{made["held"]}
				if err := p.endForsaken(); err != nil {
					t.Fatal(err)
				}
			} else {
				p.vault.Put(made["held"], p.providers.All()[0], identity.Tokens{Refresh: []byte("r")})
				take, err := p.prepareProviders(with(tc.after...))
				if err != nil {
					t.Fatal(err)
				}
				take()
			}
			for subject, id := range made {
				if _, err := table.ByID(id); (err != nil) != tc.ended[subject] {
					t.Errorf("%s: %v", subject, err)
				}
			}
		})
	}
}
