// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// blocks returns the YAML blocks of a document.
func blocks(t *testing.T, doc string) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + doc)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for i, part := range strings.Split(string(text), "```") {
		if code, ok := strings.CutPrefix(part, "yaml\n"); ok && i%2 == 1 {
			blocks = append(blocks, code)
		}
	}
	return blocks
}

// examples returns the YAML blocks of docs/configuration.md, the reference last.
func examples(t *testing.T) []string {
	t.Helper()
	blocks := blocks(t, "configuration.md")
	if len(blocks) != 2 {
		t.Fatalf("%d YAML blocks, want the smallest and the reference", len(blocks))
	}
	return blocks
}

func TestExamplesLoad(t *testing.T) {
	for _, text := range examples(t) {
		if _, err := parse("docs/configuration.md", "/", []byte(text), Hooks{Compile: compile, CompileClaims: compile, SkipFiles: true}); err != nil {
			t.Error(err)
		}
	}
}

// What docs/machines.md says about the configuration is right. What is not about it is for Kubernetes or a CI system.
func TestMachineExamplesLoad(t *testing.T) {
	n := 0
	for _, text := range blocks(t, "machines.md") {
		if !strings.HasPrefix(text, "machines:") {
			continue
		}
		n++
		if _, err := parse("docs/machines.md", "/", []byte(text+minimal), Hooks{Compile: compile, CompileClaims: compile, SkipFiles: true}); err != nil {
			t.Error(err)
		}
	}
	if n < 3 {
		t.Errorf("%d examples found", n)
	}
}

// So is what docs/identity.md says.
func TestIdentityExamplesLoad(t *testing.T) {
	list := blocks(t, "identity.md")
	if len(list) < 2 {
		t.Errorf("%d examples found", len(list))
	}
	for _, text := range list {
		if !strings.HasPrefix(text, "services:") {
			text += minimal
		}
		if _, err := parse("docs/identity.md", "/", []byte(text), Hooks{Compile: compile, CompileClaims: compile, SkipFiles: true}); err != nil {
			t.Error(err)
		}
	}
}

// So is what docs/signals.md says.
func TestSignalExamplesLoad(t *testing.T) {
	const provider = "providers: [{name: corp, issuer: 'https://idp.example.com', client_id: curfew}]"
	texts := blocks(t, "signals.md")
	if len(texts) != 4 {
		t.Errorf("%d examples found", len(texts))
	}
	for _, text := range texts {
		if _, err := parse("docs/signals.md", "/", []byte(text+provider+minimal), Hooks{Compile: compile, CompileClaims: compile, SkipFiles: true}); err != nil {
			t.Error(err)
		}
	}
}

// So is what docs/policy.md says about policy engines.
func TestPolicyEngineExampleLoads(t *testing.T) {
	n := 0
	for _, text := range blocks(t, "policy.md") {
		if !strings.HasPrefix(text, "opa:") {
			continue
		}
		n++
		text = "    " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n    ") + "\n" // a part of a service
		if _, err := parse("docs/policy.md", "/", []byte(minimal+text), Hooks{Compile: compile, CompileClaims: compile, SkipFiles: true}); err != nil {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("%d examples found", n)
	}
}

// The reference has every key, and shows the default of each that has one.
func TestReferenceIsComplete(t *testing.T) {
	d := newDocument("docs/configuration.md", examples(t)[1])
	shown := Default()
	d.decode("", d.parse(), reflect.ValueOf(shown).Elem())
	if err := d.problems.sorted(); err != nil {
		t.Fatal(err)
	}
	defaults := Default()
	defaults.ControlSocket = "/run/curfew/control.sock" // from run
	defaults.Services = make([]Service, 1)
	defaults.Services[0].setDefaults()
	defaults.Services[0].IdleCounts = defaults.Sessions.IdleCounts
	defaults.Providers = make([]Provider, 1)
	defaults.Providers[0].setDefaults()
	defaults.Machines = make([]Machine, 1)
	defaults.Machines[0].setDefaults()
	defaults.Signals = make([]Signal, 1)
	defaults.Signals[0].setDefaults()
	defaults.SCIM = make([]SCIM, 1)
	defaults.SCIM[0].setDefaults()
	defaults.Webhooks = make([]Webhook, 1)
	compareShown(t, d, "", reflect.ValueOf(*shown), reflect.ValueOf(*defaults))
}

func compareShown(t *testing.T, d *document, key string, shown, def reflect.Value) {
	t.Helper()
	for i := range shown.NumField() {
		name := shown.Type().Field(i).Tag.Get("yaml")
		child, s, v := join(key, name), shown.Field(i), def.Field(i)
		if child == "machines[0].jwks_file" || child == "signals[0].access_token_file" { // exclude others; they are in the comments there
			continue
		}
		if d.keys[child] == nil {
			t.Errorf("docs/configuration.md does not have %s", child)
			continue
		}
		switch {
		case s.Kind() == reflect.Pointer:
			part := reflect.New(s.Type().Elem())
			if def, ok := part.Interface().(defaulter); ok {
				def.setDefaults()
			}
			compareShown(t, d, child, s.Elem(), part.Elem())
		case s.Kind() == reflect.Slice && s.Type().Elem().Kind() == reflect.Struct && s.Type().Elem().PkgPath() == shown.Type().PkgPath():
			compareShown(t, d, child+"[0]", s.Index(0), v.Index(0))
		case s.Kind() == reflect.Struct && s.Type().PkgPath() == shown.Type().PkgPath():
			compareShown(t, d, child, s, v)
		case !v.IsZero() && !reflect.DeepEqual(s.Interface(), v.Interface()):
			t.Errorf("docs/configuration.md shows %v for %s, the default is %v", s, child, v)
		}
	}
}
