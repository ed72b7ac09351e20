// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/test/jwt"
)

const machinesConfig = `
machines:
  - name: ci
    issuer: https://ci.example
    audience: curfew
    allow: claims.repository == "org/app" && claims.run > 9007199254740992
    jwks_file: keys.json
services: [{name: db, upstream: '10.0.0.5:5432', allow: 'true'}]
`

// What the configuration says of machines reaches package identity: the rule compiled, the keys read.
func TestMachinesAreTranslated(t *testing.T) {
	dir := t.TempDir()
	put := func(file, text string) string {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := put("curfew.yaml", machinesConfig)
	keys := jwt.Set(jwt.NewKey(t, "k"))
	put("keys.json", string(keys))
	c, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBundle(c)
	if err != nil {
		t.Fatal(err)
	}
	list, err := b.machines()
	if err != nil || len(list) != 1 || string(list[0].JWKS) != string(keys) {
		t.Fatalf("%+v, %v", list, err)
	}
	for run, want := range map[int64]bool{9007199254740993: true, 9007199254740992: false} {
		if ok, err := list[0].Allow(map[string]any{"repository": "org/app", "run": run}); ok != want || err != nil {
			t.Errorf("run %d: %v, %v", run, ok, err)
		}
	}
	if _, err := identity.NewMachines(identity.MachinesConfig{Machines: list}); err != nil {
		t.Error(err)
	}
	put("keys.json", `{"keys":[]}`)
	if _, err := LoadConfig(path); err == nil || !strings.Contains(err.Error(), "machines[0].jwks_file") {
		t.Errorf("a file without keys: %v", err)
	}
	put("keys.json", string(keys))
	put("curfew.yaml", strings.Replace(machinesConfig, "claims.run", "identity.run", 1))
	if _, err := LoadConfig(path); err == nil || !strings.Contains(err.Error(), ":6:46: machines[0].allow: undeclared reference to 'identity'") {
		t.Errorf("a rule that is wrong: %v", err)
	}
}
