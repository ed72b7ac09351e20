// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/config"
)

// What the collector frees is overwritten where tokens are, and only there: it costs a tenth of a new connection.
func TestProxyEnv(t *testing.T) {
	for name, tc := range map[string]struct {
		config config.Config
		set    string
		want   string // of GODEBUG; empty: not there
	}{
		"no tokens":             {config.Config{}, "", ""},
		"the operator's own":    {config.Config{}, "gctrace=1", "GODEBUG=gctrace=1"},
		"a provider":            {config.Config{Providers: make([]config.Provider, 1)}, "", "GODEBUG=clobberfree=1"},
		"a provider and theirs": {config.Config{Providers: make([]config.Provider, 1)}, "gctrace=1", "GODEBUG=gctrace=1,clobberfree=1"},
		"machines":              {config.Config{Machines: make([]config.Machine, 1)}, "", "GODEBUG=clobberfree=1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GODEBUG", tc.set)
			file, err := newBundleFile()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if err := (&bundle{Config: &tc.config}).write(file); err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, v := range proxyEnv(file) {
				if strings.HasPrefix(v, "GODEBUG=") {
					got += v
				}
			}
			if got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}
