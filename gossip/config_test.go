// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/curfew-proxy/curfew/gossip/memnet"
)

func TestConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		carrier, err := memnet.New(lan).Node("a", "10.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		defer carrier.Close()
		for what, change := range map[string]func(*Config){
			"no name":                         func(c *Config) { c.Name = "" },
			"long name":                       func(c *Config) { c.Name = strings.Repeat("x", maxName+1) },
			"no address":                      func(c *Config) { c.Advertise = netip.AddrPort{} },
			"any address":                     func(c *Config) { c.Advertise = netip.MustParseAddrPort("[::]:1") },
			"an address of this host's alone": func(c *Config) { c.Advertise = netip.MustParseAddrPort("[fe80::1%eth0]:1") },
			"no port":                         func(c *Config) { c.Advertise = netip.MustParseAddrPort("10.0.0.1:0") },
			"no carrier":                      func(c *Config) { c.Carrier = nil },
			"no handler":                      func(c *Config) { c.Handler = nil },
			"no log":                          func(c *Config) { c.Log = nil },
			"wrong seed":                      func(c *Config) { c.Seeds = []string{"host"} },
			"long metadata":                   func(c *Config) { c.Meta = func() []byte { return make([]byte, MaxMeta+1) } },
			"negative limits":                 func(c *Config) { c.MaxRequest = -1 },
		} {
			cfg := Config{Name: "a", Advertise: netip.MustParseAddrPort("10.0.0.1:1"), Carrier: carrier, Handler: &node{}, Log: slog.New(slog.DiscardHandler)}
			change(&cfg)
			if c, err := New(cfg); err == nil {
				t.Errorf("%s: accepted", what)
				c.Close()
			}
		}
	})
}
