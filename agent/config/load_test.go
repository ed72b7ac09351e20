// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// badExpr is an expression that the fake compiler of the tests objects to, at each "BAD".
type exprError struct{ line, column int }

func (e *exprError) Error() string        { return fmt.Sprintf("%d:%d: bad", e.line, e.column) }
func (e *exprError) Position() (int, int) { return e.line, e.column }
func (e *exprError) Description() string  { return "bad" }

func compile(expr string) error {
	var errs []error
	for i, line := range strings.Split(expr, "\n") {
		if at := strings.Index(line, "BAD"); at >= 0 {
			errs = append(errs, &exprError{i + 1, len([]rune(line[:at])) + 1})
		}
	}
	if expr == "NOWHERE" {
		return errors.New("an error without a place")
	}
	if len(errs) > 0 {
		return fmt.Errorf("compile: %w", errors.Join(errs...))
	}
	return nil
}

var hooks = Hooks{Compile: compile, CompileClaims: compile, CheckKeys: checkKeys}

// checkKeys objects to keys that are not "good".
func checkKeys(jwks []byte) error {
	if !strings.Contains(string(jwks), "good") {
		return errors.New("are bad")
	}
	return nil
}

func write(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	return Load(write(t, "curfew.yaml", text, 0o644), hooks)
}

const minimal = `
services:
  - name: db
    upstream: 10.0.0.5:5432
    allow: 'true'
`

func TestMinimal(t *testing.T) {
	c, err := load(t, minimal)
	if err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	if c.Name != host || c.URL != "https://"+host+":8443" || c.ControlSocket != "/run/curfew/control.sock" {
		t.Errorf("name %q, url %q, socket %q", c.Name, c.URL, c.ControlSocket)
	}
	s := c.Services[0]
	if s.Protocol != ProtocolTCP || s.DialTimeout != 10*time.Second || s.TLSMin != tls.VersionTLS13 || s.IdleCounts != IdleCountsClient {
		t.Errorf("service defaults: %+v", s)
	}
}

func TestEverythingIsRead(t *testing.T) {
	c, err := load(t, `
name: node1
listen: [192.0.2.1:443, "[2001:db8::1]:443"]
url: https://curfew.example.com
run: /tmp/run
enforcement: userspace
sessions: {absolute_timeout: 8h, idle_timeout: 0s, idle_counts: both, max: 7, connections: 3}
bind_address: {enabled: true}
providers:
  - name: corp
    issuer: https://idp.example.com/realm
    client_id: curfew
services:
  - name: db
    listen: [192.0.2.1:5432]
    plain_listen: [127.0.0.1:5433]
    protocol: postgres
    upstream: db.internal:5432
    upstream_tls: {}
    proxy_protocol: true
    allow: |
      true
    tls_min: 1.2
    absolute_timeout: 90m
    max_connections: 5
`)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen[1] != netip.MustParseAddrPort("[2001:db8::1]:443") || c.Sessions.Max != 7 || c.Sessions.IdleTimeout != 0 || c.ControlSocket != "/tmp/run/control.sock" {
		t.Errorf("%+v", c)
	}
	s := c.Services[0]
	if s.UpstreamTLS == nil || s.TLSMin != tls.VersionTLS12 || s.AbsoluteTimeout != 90*time.Minute || !s.ProxyProtocol || s.IdleCounts != IdleCountsBoth || s.Allow != "true\n" {
		t.Errorf("%+v", s)
	}
	if p := c.Providers[0]; p.GroupsClaim != "groups" || len(p.Scopes) != 2 {
		t.Errorf("%+v", p)
	}
}

// Each case is a whole file; want has one line a problem: line:column: key: message; hint.
var mistakes = map[string]struct {
	text string
	want []string
}{
	"unknown key": {"services:\n  - name: db\n    upstram: a:1\n    allow: 'true'\n",
		[]string{`3:5: services[0].upstram: unknown key; did you mean "upstream"?`}},
	"a key like no other": {minimal + "quux: 1\n",
		[]string{`6:1: quux: unknown key; known here are name, listen,`}},
	"misspelling hides nothing": {minimal + "sesions: {}\nsessions: {max: 0}\n",
		[]string{`6:1: sesions: unknown key; did you mean "sessions"?`, `7:17: sessions.max: 0 is too small; at least 1`}},
	"key twice":             {minimal + "name: a\nname: b\n", []string{`7:1: name: this key is said twice, first in line 6; keep one of them`}},
	"key is no text":        {minimal + "1: x\n", []string{`6:1: 1: unknown key`}},
	"text for a number":     {minimal + "sessions: {max: many}\n", []string{`6:17: sessions.max: want a whole number, have "many"`}},
	"fraction for a number": {minimal + "sessions: {max: 1.5}\n", []string{`6:17: sessions.max: want a whole number, have "1.5"`}},
	"number for a text":     {minimal + "name: 12\n", []string{`6:7: name: want text, have "12"; write it in quotes: "12"`}},
	"yes for true":          {minimal + "metrics_public: yes\n", []string{`6:17: metrics_public: want true or false, have "yes"`}},
	"list for a text":       {minimal + "name: [a]\n", []string{`6:7: name: want text, have a list`}},
	"text for a list":       {minimal + "listen: 0.0.0.0:1\n", []string{`6:9: listen: want a list, have text; write [0.0.0.0:1]`}},
	"text for keys":         {minimal + "tls: yes\n", []string{`6:6: tls: want keys and values, have text; for example: certificate: ...`}},
	"no value":              {minimal + "name:\n", []string{`6:7: name: there is no value; give one or delete the line`}},
	"empty text":            {minimal + "state: ''\n", []string{`6:8: state: must not be empty`}},
	"duration without unit": {minimal + "sessions: {idle_timeout: 30}\n", []string{`6:26: sessions.idle_timeout: want a duration such as 30s, 15m or 12h, have "30"; it needs a unit: 30s or 30m?`}},
	"duration in days":      {minimal + "sessions: {idle_timeout: 2d}\n", []string{`have "2d"; in hours: 48h`}},
	"negative duration":     {minimal + "sessions: {idle_timeout: -1h}\n", []string{`have "-1h"; it cannot be negative`}},
	"session without end":   {minimal + "sessions: {absolute_timeout: 0s}\n", []string{`6:30: sessions.absolute_timeout: 0s is too short; at least 1s`}},
	"port without address":  {minimal + "listen: [':8443']\n", []string{`6:10: listen[0]: want an IP address and a port, have ":8443"; for every address write 0.0.0.0:8443 or "[::]:8443"`}},
	"address without port":  {minimal + "listen: [10.0.0.1]\n", []string{`have "10.0.0.1"; the port is missing: "10.0.0.1:8443"?`}},
	"name to listen on":     {minimal + "listen: ['localhost:1']\n", []string{`not a name: 0.0.0.0:1`}},
	"port too high":         {minimal + "listen: [10.0.0.1:65536]\n", []string{`ports end at 65535`}},
	"bare IPv6":             {minimal + "listen: [::]:8443\n", []string{`an IPv6 address needs quotes`}},
	"service twice": {minimal + "  - name: db\n    upstream: a:1\n    allow: 'true'\n",
		[]string{`6:11: services[1].name: a second service is called "db"; the first is in line 3`}},
	"port twice": {minimal + "    listen: [0.0.0.0:5432]\n  - name: db2\n    upstream: a:1\n    allow: 'true'\n    listen: ['127.0.0.1:5432']\n",
		[]string{`10:14: services[1].listen[0]: service "db2" listens on 127.0.0.1:5432, and so does service "db"; 0.0.0.0:5432 covers it; choose another port`}},
	"port of the gateway": {minimal + "    listen: [0.0.0.0:8443]\n",
		[]string{`6:14: services[0].listen[0]: service "db" listens on 0.0.0.0:8443, and so does the gateway; choose another port`}},
	"IPv6 wildcard covers IPv4": {minimal + "listen: [10.0.0.1:443, '[::]:443']\n", []string{`6:24: listen[1]: the gateway listens on [::]:443, and so does the gateway; 10.0.0.1:443 covers it`}},
	"service without anything": {"services:\n  - protocol: tcp\n", []string{
		`2:5: services[0].name: is missing`, `2:5: services[0].upstream: is missing; for example`, `2:5: services[0].allow: is missing; without a policy nobody may pass`}},
	"service is no map":  {"services:\n  - db\n", []string{`2:5: services[0]: want keys and values, have text`}},
	"item without value": {"services:\n  -\n", []string{`services[0]: there is no value`}},
	"no services":        {"name: a\n", []string{`services: is missing; a configuration needs at least one service`}},
	"name of a service":  {strings.Replace(minimal, "db", "My_DB", 1), []string{`3:11: services[0].name: "My_DB" cannot be a name`}},
	"protocol":           {minimal + "    protocol: postgress\n", []string{`6:15: services[0].protocol: "postgress" is not known here; did you mean "postgres"?`}},
	"version of TLS":     {minimal + "    tls_min: 1.1\n", []string{`6:14: services[0].tls_min: want "1.3" or "1.2", have "1.1"`}},
	"upstream":           {strings.Replace(minimal, ":5432", "", 1), []string{`4:15: services[0].upstream: want host:port, have "10.0.0.5"; the port is missing: "10.0.0.5:6379"?`}},
	"upstream port":      {strings.Replace(minimal, ":5432", ":pg", 1), []string{`"pg" is not a port; a number from 1 to 65535`}},
	"half a pair":        {minimal + "    upstream_tls: {certificate: x}\n", []string{`6:5: services[0].upstream_tls: a certificate needs its key`}},
	"plain listeners":    {minimal + "    plain_listen: [127.0.0.1:99]\n", []string{`6:5: services[0].plain_listen: plain listeners are switched off`}},
	"public metrics":     {minimal + "metrics: 0.0.0.0:9464\n", []string{`6:10: metrics: 0.0.0.0 can be reached from other hosts; use 127.0.0.1`}},
	"url":                {minimal + "url: http://a\n", []string{`6:6: url: want an https URL, have "http://a"`}},
	"url with a path":    {minimal + "url: https://a/b\n", []string{`6:6: url: the URL must end with the host and the port; https://a`}},
	"relative state":     {minimal + "state: var\n", []string{`6:8: state: "var" is not an absolute path`}},
	"run in state":       {minimal + "state: /var/lib/curfew\nrun: /var/lib/curfew/run\n", []string{`7:6: run: "/var/lib/curfew/run" is in the state directory`}},
	"run is state":       {minimal + "state: /srv/\nrun: /srv\n", []string{`7:6: run: "/srv" is in the state directory`}},
	"around the corner":  {minimal + "state: /srv/a\nrun: /srv/b/../a/run\n", []string{`7:6: run: "/srv/b/../a/run" is in the state directory`}},
	"run in state /":     {minimal + "state: /\n", []string{`run: "/run/curfew" is in the state directory`}},
	"socket in state":    {minimal + "state: /srv\ncontrol_socket: /srv/s\n", []string{`7:17: control_socket: "/srv/s" is in the state directory`}},
	"long socket":        {minimal + "control_socket: /" + strings.Repeat("x", 107) + "\n", []string{`6:17: control_socket: the path has 108 bytes`}},
	"cleartext issuer": {minimal + "providers: [{name: a, issuer: 'http://idp', client_id: x}]\n",
		[]string{`6:31: providers[0].issuer: "http://idp" is not safe`}},
	"symmetric algorithm": {minimal + "providers: [{name: a, issuer: 'https://idp', client_id: x, algorithms: [HS256]}]\n",
		[]string{`6:73: providers[0].algorithms[0]: "HS256" is no signature`}},
	"name of a provider": {minimal + "providers: [{name: Corp, issuer: 'http://[::1]:1', client_id: x}]\n", []string{`6:20: providers[0].name: "Corp" cannot be a name`}},
	"cancel":             {minimal + "    allow_cancel: true\n", []string{`6:5: services[0].allow_cancel: only PostgreSQL has cancel requests`}},
	"missing file": {minimal + "providers: [{name: a, issuer: 'https://idp', client_id: x, client_secret_file: nope}]\n",
		[]string{`6:80: providers[0].client_secret_file: `}},
	"policy":                 {strings.Replace(minimal, "'true'", "a && BAD", 1), []string{`5:17: services[0].allow: bad`}},
	"policy without place":   {strings.Replace(minimal, "'true'", "NOWHERE", 1), []string{`5:12: services[0].allow: an error without a place`}},
	"syntax":                 {"services: [\n", []string{`1:`}},
	"anchor":                 {minimal + "name: &a x\n", []string{`name: anchors and aliases are not understood`}},
	"tag":                    {minimal + "name: !!str x\n", []string{`name: tags are not understood`}},
	"merge":                  {minimal + "<<: {name: x}\n", []string{`unknown key`}},
	"two documents":          {minimal + "---\nname: x\n", []string{`7:1: a second YAML document begins here`}},
	"empty":                  {"# nothing\n", []string{`the file says nothing`}},
	"no map":                 {"hello\n", []string{`want keys and values, have text`}},
	"cluster without listen": {text: "cluster: {seeds: ['a:1']}\n" + minimal, want: []string{"cluster: says how to reach others, but not where"}},
	"require nonsense": {text: minimal + "    require: {acr: ['a b'], amr: [''], max_age: 10s}\n", want: []string{
		`require.acr[0]: "a b" cannot be a value`, `require.amr[0]: "" cannot be a value`, `require.max_age: 10s is too short; at least 1m0s`}},
	"strict without cluster": {text: minimal + "    partition: strict\n", want: []string{"partition: strict has no meaning without a cluster"}},
	"bad seeds": {text: "cluster: {listen: 0.0.0.0:7946, seeds: ['here', 'srv:x.org', 'b:0']}\n" + minimal,
		want: []string{`want host:port, have "here"`, `"x.org" is not the name of an SRV record`, `"0" is not a port`}},
}

func TestMistakes(t *testing.T) {
	for name, tc := range mistakes {
		t.Run(name, func(t *testing.T) {
			c, err := load(t, tc.text)
			var ps Problems
			if c != nil || !errors.As(err, &ps) {
				t.Fatalf("Load = %v, %v; want Problems", c, err)
			}
			if len(ps) != len(tc.want) {
				t.Fatalf("%d problems, want %d:\n%v", len(ps), len(tc.want), err)
			}
			for i, p := range ps {
				text := strings.TrimPrefix(strings.TrimPrefix(p.Error(), p.File), ":")
				if !strings.Contains(text, tc.want[i]) {
					t.Errorf("have %s\nwant %s", text, tc.want[i])
				}
				if p.File == "" || p.Line > 0 && p.Excerpt == "" {
					t.Errorf("no file or no excerpt: %+v", p)
				}
			}
		})
	}
}

func TestExcerpt(t *testing.T) {
	_, err := load(t, "\nservices:\n  - name: db\n\n    upstream: a:1\n    allow: \"é && BAD\"\n")
	var p *Problem
	if !errors.As(err, &p) {
		t.Fatal(err)
	}
	want := "    5 |     upstream: a:1\n    6 |     allow: \"é && BAD\"\n      |                  ^"
	if p.Excerpt != want {
		t.Errorf("have\n%s\nwant\n%s", p.Excerpt, want)
	}
}

func TestValidateOfAProgram(t *testing.T) {
	c := Default()
	c.Name = "demo"
	c.Services = []Service{{Name: "echo", Upstream: "127.0.0.1:7", Allow: "true", Protocol: ProtocolTCP, DialTimeout: time.Second, TLSMin: tls.VersionTLS13, Partition: PartitionAvailable}}
	if err := c.Validate(hooks); err != nil {
		t.Errorf("Validate: %v", err)
	}
	c.Services[0].Upstream = "nowhere"
	c.Services[0].Allow = "BAD"
	var ps Problems
	if err := c.Validate(hooks); !errors.As(err, &ps) || len(ps) != 2 || ps[0].Key != "services[0].upstream" {
		t.Errorf("Validate: %v", err)
	}
}
