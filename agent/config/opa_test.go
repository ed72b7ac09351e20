// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// asking returns a configuration whose service has an engine, in line 6.
func asking(opa string) string { return minimal + "    opa: " + opa + "\n" }

func TestOPA(t *testing.T) {
	c, err := loadText(asking("{url: https://opa.example/v1/data/curfew/allow, token_file: opa.token, ca_file: /ca.pem}"))
	if err != nil {
		t.Fatal(err)
	}
	want := OPA{URL: "https://opa.example/v1/data/curfew/allow", Timeout: 500 * time.Millisecond, Cache: 30 * time.Second, TokenFile: "/etc/curfew/opa.token", CAFile: "/ca.pem"}
	if o := c.Services[0].OPA; o == nil || *o != want {
		t.Errorf("%+v, want %+v", o, want)
	}
	if c, err = loadText(minimal); err != nil || c.Services[0].OPA != nil {
		t.Errorf("without: %+v, %v", c, err)
	}
}

func TestOPAProblems(t *testing.T) {
	for name, tc := range map[string]struct{ opa, want string }{
		"here":        {"{url: 'http://127.0.0.1:8181/v1/data/allow', cache: 0s}", ""},
		"here, by v6": {"{url: 'http://[::1]:8181/v1/data/allow'}", ""},
		"by name":     {"{url: 'http://localhost:8181/v1/data/allow'}", ""},
		"with prefix": {"{url: 'https://x.example/opa/v1/data/allow'}", ""},
		"nowhere":     {"{}", ":6:5: services[0].opa.url: is missing"},
		"plain text":  {"{url: 'http://opa.example/v1/data/allow'}", `services[0].opa.url: "http://opa.example/v1/data/allow" is not safe`},
		"socket":      {"{url: 'unix:///run/opa.sock'}", "is not the address of a decision"},
		"password":    {"{url: 'https://me:secret@opa.example/v1/data/allow'}", "is not the address of a decision"},
		"other API":   {"{url: 'https://opa.example/v0/data/allow'}", "is no document of OPA's data API"},
		"all of it":   {"{url: 'https://opa.example/v1/data'}", "is no document of OPA's data API"},
		"no time":     {"{url: 'https://opa.example/v1/data/allow', timeout: 0s}", "services[0].opa.timeout: 0s is too short; at least 10ms"},
		"long":        {"{url: 'https://opa.example/v1/data/allow', timeout: 11s}", "services[0].opa.timeout: 11s is too long"},
		"for ever":    {"{url: 'https://opa.example/v1/data/allow', cache: 61m}", "services[0].opa.cache: 1h1m0s is too long"},
		"unknown":     {"{url: 'https://opa.example/v1/data/allow', fail_open: true}", "services[0].opa.fail_open: unknown key"},
	} {
		_, err := loadText(asking(tc.opa))
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\nwant %s", name, err, tc.want)
		}
	}
}

func TestOPAFiles(t *testing.T) {
	for _, tc := range []struct {
		token string
		mode  os.FileMode
		ca    string
		want  string
	}{
		{"s3cret\n", 0o600, "", ""},
		{"", 0o600, "", "opa.token is empty"},
		{"s3cret\ns3cret2\n", 0o600, "", "has more than one token"},
		{"s3cret", 0o644, "", "is a secret, but its mode is 0644"},
		{"s3cret", 0o600, "none", "services[0].opa.ca_file: "},
	} {
		dir := t.TempDir()
		opa := "{url: 'https://opa.example/v1/data/allow', token_file: opa.token"
		if tc.ca != "" {
			put(t, dir, "ca.pem", []byte(tc.ca))
			opa += ", ca_file: ca.pem"
		}
		put(t, dir, "curfew.yaml", []byte(asking(opa+"}")))
		put(t, dir, "opa.token", []byte(tc.token))
		chmod(t, dir, "opa.token", tc.mode)
		_, err := Load(filepath.Join(dir, "curfew.yaml"), hooks)
		if (err == nil) != (tc.want == "") || err != nil && (!strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%q: %v\nwant %s", tc.token, err, tc.want)
		}
	}
}
