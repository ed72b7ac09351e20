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

// signal returns a configuration with one transmitter, which begins in line 2.
func signal(lines ...string) string {
	return "signals:\n  - name: corp\n" + "    " + strings.Join(lines, "\n    ") + "\n" + others
}

// others are a provider, and what else a configuration needs.
var others = "providers: [{name: corp, issuer: 'https://idp.example', client_id: curfew}]\n" + strings.TrimPrefix(minimal, "\n")

const (
	goodSignal = "issuer: https://idp.example\n    audience: curfew"
	polled     = "poll: https://idp.example/poll"
)

var noFiles = Hooks{Compile: compile, CompileClaims: compile, SkipFiles: true}

func loadText(text string) (*Config, error) {
	return parse("f.yaml", "/etc/curfew", []byte(text), noFiles)
}

func TestSignals(t *testing.T) {
	c, err := loadText(signal(goodSignal, "token_file: push.token", polled, "client: {token_endpoint: 'https://idp.example/token', id: x, secret_file: corp.secret}") +
		"scim: [{name: hr, issuer: 'https://idp.example', token_file: hr.token}]\nwebhooks: [{name: siem, token_file: siem.token}]\n")
	if err != nil {
		t.Fatal(err)
	}
	s := c.Signals[0]
	if s.MaxAge != 24*time.Hour || s.CredentialChange != "end" || s.DeviceCompliance != "end" || s.Opaque != "session" || s.SessionIDs != "sid" {
		t.Errorf("%+v", s)
	}
	if c.SCIM[0].UserName != "email" || c.SCIM[0].ExternalID != "ignore" || c.Webhooks[0].Issuer != "" {
		t.Errorf("%+v, %+v", c.SCIM, c.Webhooks)
	}
	files := []string{s.TokenFile, s.Client.SecretFile, c.SCIM[0].TokenFile, c.Webhooks[0].TokenFile}
	if want := []string{"/etc/curfew/push.token", "/etc/curfew/corp.secret", "/etc/curfew/hr.token", "/etc/curfew/siem.token"}; !slices.Equal(files, want) {
		t.Errorf("files %q", files)
	}
}

func TestSignalProblems(t *testing.T) {
	client := "client: {token_endpoint: 'https://idp.example/token', id: x, secret_file: y}"
	for name, tc := range map[string]struct{ text, want string }{
		"good":                        {signal(goodSignal, "token_file: x"), ""},
		"by token":                    {signal(goodSignal, polled, "access_token_file: x"), ""},
		"no way":                      {signal(goodSignal), ":2:5: signals[0]: its events can neither be pushed nor fetched"},
		"nobody there":                {signal(goodSignal, polled), ":5:5: signals[0].poll: nothing says who we are there"},
		"two proofs":                  {signal(goodSignal, polled, "access_token_file: x", client), ":6:5: signals[0].access_token_file: access tokens come from client already"},
		"no audience":                 {signal("issuer: https://idp.example", "token_file: x"), "signals[0].audience: is missing"},
		"no issuer":                   {signal("audience: x", "token_file: x"), "signals[0].issuer: is missing"},
		"http issuer":                 {signal("issuer: http://idp.example", "audience: x", "token_file: x"), ":3:13: signals[0].issuer"},
		"an issuer of nobody":         {signal("issuer: https://ssf.example", "audience: x", "token_file: x"), `:3:13: signals[0].issuer: nobody signs in with "https://ssf.example"`},
		"others' issuer":              {signal("issuer: https://ssf.example", "audience: x", "token_file: x", "issuers: [https://idp.example]"), ""},
		"others of nobody":            {signal(goodSignal, "token_file: x", "issuers: [https://idp.example, https://x.example]"), ":6:36: signals[0].issuers[1]: nobody signs in"},
		"empty issuer":                {signal(goodSignal, "token_file: x", "issuers: ['']"), "signals[0].issuers[0]: no issuer has an empty name"},
		"name":                        {strings.Replace(signal(goodSignal, "token_file: x"), "corp\n", "Corp/x\n", 1), ":2:11: signals[0].name"},
		"two of a name":               {strings.Replace(signal(goodSignal, "token_file: x"), "providers:", "  - {name: corp, issuer: 'https://idp.example', audience: x, token_file: x}\nproviders:", 1), "a second transmitter is called"},
		"max_age":                     {signal(goodSignal, "token_file: x", "max_age: 169h"), ":6:14: signals[0].max_age: 169h0m0s is too long"},
		"max_age short":               {signal(goodSignal, "token_file: x", "max_age: 1s"), "is too short"},
		"http keys":                   {signal(goodSignal, "token_file: x", "jwks_uri: http://idp.example/keys"), ":6:15: signals[0].jwks_uri"},
		"http poll":                   {signal(goodSignal, "poll: http://idp.example/poll", "access_token_file: x"), ":5:11: signals[0].poll"},
		"http tokens":                 {signal(goodSignal, polled, strings.Replace(client, "https", "http", 1)), "signals[0].client.token_endpoint"},
		"client without id":           {signal(goodSignal, polled, "client: {token_endpoint: 'https://idp.example/token', secret_file: y}"), "signals[0].client.id: is missing"},
		"HMAC":                        {signal(goodSignal, "token_file: x", "algorithms: [HS256]"), "is no signature"},
		"credential_change, misspelt": {signal(goodSignal, "token_file: x", "credential_change: refresh"), `"refresh" is not known here; did you mean "fresh"?`},
		"credential_change":           {signal(goodSignal, "token_file: x", "credential_change: ignore"), ":6:24: signals[0].credential_change"},
		"device_compliance":           {signal(goodSignal, "token_file: x", "device_compliance: ends"), `did you mean "end"?`},
		"opaque":                      {signal(goodSignal, "token_file: x", "opaque: sid"), "signals[0].opaque"},
		"session_ids":                 {signal(goodSignal, "token_file: x", "session_ids: user"), "signals[0].session_ids"},
		"unknown key":                 {signal(goodSignal, "token_fle: x"), `did you mean "token_file"?`},

		"scim of nobody":       {others + "scim: [{name: hr, issuer: 'https://x.example', token_file: x}]\n", "scim[0].issuer: nobody signs in"},
		"scim without issuer":  {others + "scim: [{name: hr, token_file: x}]\n", "scim[0].issuer: is missing"},
		"scim without token":   {others + "scim: [{name: hr, issuer: 'https://idp.example'}]\n", "scim[0].token_file: is missing"},
		"scim means nobody":    {others + "scim: [{name: hr, issuer: 'https://idp.example', token_file: x, user_name: ignore}]\n", "scim[0]: with both user_name and external_id ignored"},
		"scim means the other": {others + "scim: [{name: hr, issuer: 'https://idp.example', token_file: x, user_name: ignore, external_id: subject}]\n", ""},
		"scim name":            {others + "scim: [{name: H, issuer: 'https://idp.example', token_file: x}]\n", "scim[0].name"},
		"scim twice":           {others + "scim: [{name: h, issuer: 'https://idp.example', token_file: x}, {name: h, issuer: 'https://idp.example', token_file: x}]\n", "a second client is called"},
		"webhook":              {others + "webhooks: [{name: siem, token_file: x, issuer: 'https://idp.example'}]\n", ""},
		"webhook of nobody":    {others + "webhooks: [{name: siem, token_file: x, issuer: 'https://x.example'}]\n", "webhooks[0].issuer: nobody signs in"},
		"webhook no token":     {others + "webhooks: [{name: siem}]\n", "webhooks[0].token_file: is missing"},
		"webhook twice":        {others + "webhooks: [{name: a, token_file: x}, {name: a, token_file: y}]\n", "a second webhook is called"},
	} {
		_, err := loadText(tc.text)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\nwant %s", name, err, tc.want)
		}
	}
}

// Tokens are long, and in files that nobody else may read; what is wrong with one is said without it.
func TestTokenFiles(t *testing.T) {
	text := signal(goodSignal, "token_file: push.token", polled, "access_token_file: access.token") +
		"scim: [{name: hr, issuer: 'https://idp.example', token_file: hr.token}]\nwebhooks: [{name: siem, token_file: siem.token}]\n"
	secret := strings.Repeat("s3cret", 6)
	for _, tc := range []struct {
		file, content string
		mode          os.FileMode
		want          string
	}{
		{"", "", 0, ""},
		{"push.token", secret + "\n" + secret + "x\n", 0o600, ""},
		{"push.token", "\n", 0o600, "signals[0].token_file: D/push.token is empty"},
		{"push.token", "s3cret", 0o600, "a token in D/push.token has 6 characters; at least 32"},
		{"push.token", secret + " s3cret", 0o600, "has 6 characters"},
		{"push.token", secret + "\x00", 0o600, "D/push.token has something that is no bearer token"},
		{"push.token", secret, 0o644, "D/push.token is a secret, but its mode is 0644"},
		{"access.token", "short", 0o600, ""},
		{"access.token", "", 0o600, "signals[0].access_token_file: D/access.token is empty"},
		{"hr.token", "s3cret", 0o600, "scim[0].token_file: a token in"},
		{"siem.token", "s3cret", 0o600, "webhooks[0].token_file: a token in"},
		{"siem.token", secret, 0o606, "webhooks[0].token_file: D/siem.token is a secret"},
	} {
		dir := t.TempDir()
		put(t, dir, "curfew.yaml", []byte(text))
		for _, name := range []string{"push.token", "access.token", "hr.token", "siem.token"} {
			put(t, dir, name, []byte(secret))
		}
		if tc.file != "" {
			put(t, dir, tc.file, []byte(tc.content))
			chmod(t, dir, tc.file, tc.mode)
		}
		_, err := Load(filepath.Join(dir, "curfew.yaml"), hooks)
		if (err == nil) != (tc.want == "") || err != nil && (!strings.Contains(err.Error(), strings.ReplaceAll(tc.want, "D/", dir+"/")) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s %q: %v\nwant %s", tc.file, tc.content, err, tc.want)
		}
	}
}
