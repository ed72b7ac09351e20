// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// machine returns a configuration with one machine, which begins in line 2.
func machine(lines ...string) string {
	return "machines:\n  - name: k8s\n" + "    " + strings.Join(lines, "\n    ") + "\n" +
		"providers: [{name: corp, issuer: 'https://idp.example', client_id: curfew}]\n" + strings.TrimPrefix(minimal, "\n")
}

const goodMachine = "issuer: https://k8s.example\n    audience: curfew\n    subjects: ['system:serviceaccount:prod:*']"

func TestMachine(t *testing.T) {
	c, err := load(t, machine(goodMachine))
	if err != nil {
		t.Fatal(err)
	}
	m := c.Machines[0]
	if m.Name != "k8s" || m.MaxAge != time.Hour || m.GroupsClaim != "groups" || m.AccessTokens || m.OutliveToken || !slices.Equal(m.Subjects, []string{"system:serviceaccount:prod:*"}) {
		t.Errorf("%+v", m)
	}
}

func TestMachineProblems(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"no rule":            {machine("issuer: https://k8s.example", "audience: x"), ":2:5: machines[0]: says nothing about which tokens"},
		"no audience":        {machine("issuer: https://k8s.example", "subjects: [a]"), "machines[0].audience: is missing"},
		"empty audience":     {machine("issuer: https://k8s.example", "audience: ''", "subjects: [a]"), ":4:15: machines[0].audience: must not be empty"},
		"no issuer":          {machine("audience: x", "subjects: [a]"), "machines[0].issuer: is missing"},
		"http issuer":        {machine("issuer: http://k8s.example", "audience: x", "subjects: [a]"), ":3:13: machines[0].issuer"},
		"issuer with query":  {machine("issuer: https://k8s.example?x=y", "audience: x", "subjects: [a]"), "is not an issuer"},
		"issuer, no URL":     {machine("issuer: kubernetes/serviceaccount", "audience: x", "subjects: [a]"), "is not an issuer"},
		"name":               {strings.Replace(machine(goodMachine), "k8s\n", "K8S/x\n", 1), ":2:11: machines[0].name"},
		"two of a name":      {strings.Replace(machine(goodMachine), "providers:", "  - name: k8s\n    "+goodMachine+"\nproviders:", 1), "a second machine is called"},
		"http keys":          {machine(goodMachine, "jwks_uri: http://k8s.example/keys"), ":6:15: machines[0].jwks_uri"},
		"keys of two kinds":  {machine(goodMachine, "jwks_uri: https://k8s.example/keys", "jwks_file: keys"), ":7:5: machines[0].jwks_file: the keys come from jwks_uri already"},
		"ca for a file":      {machine(goodMachine, "jwks_file: keys", "ca_file: ca"), "nothing is fetched"},
		"stars":              {machine("issuer: https://k8s.example", "audience: x", "subjects: [a, 'b:**']"), ":5:19: machines[0].subjects[1]"},
		"empty subject":      {machine("issuer: https://k8s.example", "audience: x", "subjects: ['']"), "empty subject"},
		"max_age":            {machine(goodMachine, "max_age: 25h"), ":6:14: machines[0].max_age: 25h0m0s is too long; at most 24h"},
		"max_age zero":       {machine(goodMachine, "max_age: 0s"), "is too short"},
		"HMAC":               {machine(goodMachine, "algorithms: [RS256, HS256]"), ":6:25: machines[0].algorithms[1]: \"HS256\" is no signature"},
		"none":               {machine(goodMachine, "algorithms: [none]"), "is no signature"},
		"rule":               {machine(goodMachine, "allow: claims.x == BAD"), ":6:24: machines[0].allow: bad"},
		"users' tokens":      {machine("issuer: https://idp.example", "audience: curfew", "subjects: ['*']"), ":4:15: machines[0].audience: with this one the ID tokens"},
		"another's audience": {machine("issuer: https://idp.example", "audience: machines", "subjects: ['*']"), ""},
		"unknown key":        {machine(goodMachine, "audiences: [x]"), `did you mean "audience"?`},
	} {
		_, err := load(t, tc.text)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\nwant %s", name, err, tc.want)
		}
	}
}

func TestMachineFiles(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "curfew.yaml", []byte(machine(goodMachine, "jwks_file: keys.json")))
	load := func() (*Config, error) { return Load(filepath.Join(dir, "curfew.yaml"), hooks) }
	for content, want := range map[string]string{`{"keys":["good"]}`: "", `x`: "is not JSON", `{"keys":[]}`: "keys.json are bad"} {
		put(t, dir, "keys.json", []byte(content))
		c, err := load()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", content, err, want)
		}
		if err == nil && c.Machines[0].JWKSFile != filepath.Join(dir, "keys.json") {
			t.Errorf("jwks_file is %q", c.Machines[0].JWKSFile)
		}
	}
	if err := os.Remove(filepath.Join(dir, "keys.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := load(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no file: %v", err)
	}
	put(t, dir, "curfew.yaml", []byte(strings.Replace(machine(goodMachine, "jwks_file: keys.json"), "https://k8s.example", "kubernetes/serviceaccount", 1)))
	put(t, dir, "keys.json", []byte(`"good"`))
	if _, err := load(); err != nil {
		t.Errorf("an issuer that is no URL, with its keys at hand: %v", err)
	}
}
