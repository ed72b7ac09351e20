// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"log/slog"
	"net/netip"
	"strings"
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
				{Method: session.MethodBrowser, Identity: session.Identity{Issuer: corp.Issuer, Subject: "held"}},
				{Method: session.MethodDevice, Identity: session.Identity{Issuer: corp.Issuer, Subject: "from before"}},
				{Method: "token", Identity: session.Identity{Issuer: corp.Issuer, Subject: "machine"}},
				{Method: session.MethodControl, Identity: session.Identity{Issuer: session.MethodControl, Subject: "operator's"}},
				{Method: session.MethodBrowser, Identity: session.Identity{Issuer: other.Issuer, Subject: "of another"}},
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

// What needs a restart is what is not as it was at the start, also when it was changed by an earlier reload, and what a name stood
// for then.
func TestNeedRestart(t *testing.T) {
	at := func(change func(*config.Config)) *bundle {
		c := config.Default()
		c.Providers = []config.Provider{{Name: "corp"}}
		c.Cluster.Listen, c.Cluster.Advertise = netip.MustParseAddrPort("127.0.0.1:7946"), "localhost:7946"
		change(c)
		return &bundle{Config: c}
	}
	begun := at(func(*config.Config) {})
	for want, change := range map[string]func(*config.Config){
		"":         func(*config.Config) {},
		"cluster":  func(c *config.Config) { c.Cluster.Seeds = []string{"other:7946"} },
		"listen":   func(c *config.Config) { c.Listen = nil },
		"url":      func(c *config.Config) { c.URL = "https://other.example" },
		"metrics":  func(c *config.Config) { c.Metrics = netip.MustParseAddrPort("127.0.0.1:9") },
		"tls":      func(c *config.Config) { c.TLS.Certificate = "own.pem" },
		"nothing1": func(c *config.Config) { c.Cluster.StrictAfter = time.Minute },
		"nothing2": func(c *config.Config) { c.Providers[0].ClientID, c.Sessions.AbsoluteTimeout = "other", time.Minute },
		"nothing3": func(c *config.Config) { c.Providers = nil },
	} {
		got := needRestart(begun, at(change))
		if want == "" || strings.HasPrefix(want, "nothing") {
			if len(got) != 0 {
				t.Errorf("%s: %v", want, got)
			}
		} else if len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("%v, want %s", got, want)
		}
	}
	none := at(func(c *config.Config) { c.Providers = nil })
	if got := needRestart(none, begun); len(got) != 1 || !strings.HasPrefix(got[0], "providers") {
		t.Errorf("the first provider: %v", got)
	}
	n := &clusterNode{p: &proxyProcess{begun: begun}}
	local, err := resolveAdvertised(t.Context(), "localhost:7946")
	if err != nil {
		t.Fatal(err)
	}
	for was, want := range map[netip.AddrPort]int{local[len(local)-1]: 0, netip.MustParseAddrPort("192.0.2.1:7946"): 1} {
		n.advertised = was
		if got := n.needRestart(t.Context()); len(got) != want {
			t.Errorf("localhost was %s: %v", was, got)
		}
	}
	n.p.begun.Config.Cluster.Advertise = "nowhere.invalid:7946"
	if got := n.needRestart(t.Context()); len(got) != 0 {
		t.Errorf("a name that cannot be looked up: %v", got)
	}
	if got := (*clusterNode)(nil).needRestart(t.Context()); len(got) != 0 {
		t.Errorf("no cluster: %v", got)
	}
}
