// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxSocketPath is what fits into a sockaddr_un with its terminating zero, in bytes.
const maxSocketPath = 107

// maxProviderName keeps a provider's name short: it is part of URLs.
const maxProviderName = 32

// validate notes everything that is wrong with c beyond the types.
func (d *document) validate(c *Config, hooks Hooks) {
	d.checkTags("", reflect.ValueOf(c).Elem())
	d.checkNode(c)
	d.checkCluster(c)
	d.checkProviders(c.Providers)
	d.checkMachines(c, hooks)
	d.checkSignals(c)
	for i := range c.Services {
		d.checkService(fmt.Sprintf("services[%d]", i), &c.Services[i], c, hooks)
	}
	d.checkUnique("services", "service", len(c.Services), func(i int) string { return c.Services[i].Name })
	d.checkListeners(c)
	if !hooks.SkipFiles {
		d.checkFiles(c, hooks)
	}
}

// missing has hints for keys that were left out.
var missing = map[string]string{
	"allow":     `without a policy nobody may pass; for example: allow: '"dba" in identity.groups'`,
	"upstream":  "for example: upstream: 10.0.0.5:5432",
	"services":  "a configuration needs at least one service",
	"issuer":    "for example: issuer: https://accounts.example.com",
	"client_id": "the provider gave one when curfew was registered there",
	"audience":  "it is what the tokens are made for; for example: audience: curfew",
}

// checkTags checks what the tags of the schema say, in v and below.
func (d *document) checkTags(key string, v reflect.Value) {
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil():
		d.checkTags(key, v.Elem())
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			d.checkTags(fmt.Sprintf("%s[%d]", key, i), v.Index(i))
		}
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if name, ok := f.Tag.Lookup("yaml"); ok { // structs of other packages have none
				d.checkField(join(key, name), f.Tag, v.Field(i))
				d.checkTags(join(key, name), v.Field(i))
			}
		}
	}
}

func (d *document) checkField(key string, tag reflect.StructTag, v reflect.Value) {
	name := tag.Get("yaml")
	if tag.Get("required") != "" && (v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0) {
		if d.values[key] != nil {
			d.wrong(key, "must not be empty", missing[name])
		} else if !d.misspelt[key] {
			d.wrongKey(key, "is missing", missing[name])
		}
	}
	if choices := tag.Get("oneof"); choices != "" {
		d.checkChoice(key, v.String(), strings.Split(choices, "|"))
	}
	switch n := v.Interface().(type) {
	case time.Duration:
		least, _ := time.ParseDuration(tag.Get("min")) // none: 0
		if n < least {
			d.wrong(key, fmt.Sprintf("%s is too short", n), fmt.Sprintf("at least %s", least))
		}
	case int:
		least, _ := strconv.Atoi(tag.Get("min"))
		if n < least {
			d.wrong(key, fmt.Sprintf("%d is too small", n), fmt.Sprintf("at least %d", least))
		}
	}
}

func (d *document) checkChoice(key, have string, choices []string) {
	if slices.Contains(choices, have) {
		return
	}
	hint := "one of " + strings.Join(choices, ", ")
	if s := suggest(have, choices); s != "" {
		hint = fmt.Sprintf("did you mean %q?", s)
	}
	d.wrong(key, fmt.Sprintf("%q is not known here", have), hint)
}

// checkUnique notes the second of two equal names among the elements of the list at key.
func (d *document) checkUnique(key, what string, n int, name func(int) string) {
	first := map[string]int{}
	for i := range n {
		child := fmt.Sprintf("%s[%d].name", key, i)
		if j, dup := first[name(i)]; dup && name(i) != "" {
			hint := "give each a name of its own"
			if line, _ := d.whereValue(fmt.Sprintf("%s[%d].name", key, j)); line > 0 {
				hint = fmt.Sprintf("the first is in line %d", line)
			}
			d.wrong(child, fmt.Sprintf("a second %s is called %q", what, name(i)), hint)
			continue
		}
		first[name(i)] = i
	}
}

func (d *document) checkNode(c *Config) {
	if c.Name != "" && !isHostName(c.Name) {
		d.wrong("name", fmt.Sprintf("%q is not a host name", c.Name), "letters, digits, dots and hyphens")
	}
	d.checkURL("url", c.URL)
	for key, path := range map[string]string{"state": c.State, "run": c.Run, "control_socket": c.ControlSocket} {
		if path != "" && !strings.HasPrefix(path, "/") {
			d.wrong(key, fmt.Sprintf("%q is not an absolute path", path), "let it begin with /")
		}
	}
	for _, key := range []struct{ name, path string }{{"run", c.Run}, {"control_socket", c.ControlSocket}} {
		if within(c.State, key.path) {
			d.wrong(key.name, fmt.Sprintf("%q is in the state directory, which belongs to the proxy's user, and is what backups copy", key.path),
				"keep it apart: in /run, for example")
			break // the socket is in run
		}
	}
	if len(c.ControlSocket) > maxSocketPath {
		d.wrong("control_socket", fmt.Sprintf("the path has %d bytes", len(c.ControlSocket)), fmt.Sprintf("sockets take at most %d", maxSocketPath))
	}
	if (c.TLS.Certificate == "") != (c.TLS.Key == "") {
		d.wrongKey("tls", "a certificate needs its key, and a key its certificate", "give both or none")
	}
	if c.Metrics.IsValid() && !c.Metrics.Addr().IsLoopback() && !c.MetricsPublic {
		d.wrong("metrics", fmt.Sprintf("%s can be reached from other hosts", c.Metrics.Addr()),
			"use 127.0.0.1, or say metrics_public: true")
	}
}

// within reports whether path is dir, or in it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func (d *document) checkProviders(ps []Provider) {
	for i, p := range ps {
		key := fmt.Sprintf("providers[%d]", i)
		d.checkProviderName(key+".name", p.Name)
		d.checkIssuer(key+".issuer", p.Issuer)
		d.checkAlgorithms(key, p.Algorithms)
	}
	d.checkUnique("providers", "provider", len(ps), func(i int) string { return ps[i].Name })
}

func (d *document) checkProviderName(key, name string) {
	if name != "" && (!isLabel(name) || len(name) > maxProviderName) {
		d.wrong(key, fmt.Sprintf("%q cannot be a name", name),
			fmt.Sprintf("use up to %d lower-case letters, digits and hyphens", maxProviderName))
	}
}

func (d *document) checkService(key string, s *Service, c *Config, hooks Hooks) {
	if s.Name != "" && !isLabel(s.Name) {
		d.wrong(key+".name", fmt.Sprintf("%q cannot be a name: clients send it as the TLS server name", s.Name), labelHint)
	}
	d.checkUpstream(key+".upstream", s.Upstream, s.Protocol)
	if len(s.PlainListen) > 0 && !c.BindAddress.Enabled {
		d.wrongKey(key+".plain_listen", "plain listeners are switched off", "say bind_address: {enabled: true}, and know what it means")
	}
	if u := s.UpstreamTLS; u != nil && (u.Certificate == "") != (u.Key == "") {
		d.wrongKey(key+".upstream_tls", "a certificate needs its key, and a key its certificate", "give both or none")
	}
	if s.AllowCancel && s.Protocol != ProtocolPostgres {
		d.wrongKey(key+".allow_cancel", "only PostgreSQL has cancel requests", "say protocol: postgres, or delete the line")
	}
	if s.Allow != "" {
		d.checkPolicy(key+".allow", hooks.Compile(s.Allow))
	}
	d.checkRequire(key+".require", s.Require)
	d.checkOPA(key+".opa", s.OPA)
}

// leastMaxAge leaves a user the time to connect after the sign-in.
const leastMaxAge = time.Minute

func (d *document) checkRequire(key string, r Require) {
	for name, values := range map[string][]string{"acr": r.ACR, "amr": r.AMR} {
		for i, v := range values {
			if v == "" || strings.ContainsFunc(v, func(c rune) bool { return c <= ' ' || c > '~' }) {
				d.wrong(fmt.Sprintf("%s.%s[%d]", key, name, i), fmt.Sprintf("%q cannot be a value: providers are sent them with spaces between", v), "ask the provider's documentation for its names")
			}
		}
	}
	if r.MaxAge > 0 && r.MaxAge < leastMaxAge {
		d.wrong(key+".max_age", fmt.Sprintf("%s is too short", r.MaxAge), fmt.Sprintf("at least %s", leastMaxAge))
	}
}

// checkPolicy notes what the compiler says, each message at its place in the file.
func (d *document) checkPolicy(key string, err error) {
	if err == nil || d.bad[key] {
		return
	}
	for _, e := range positioned(err) {
		line, column := d.locate(key, 1, 1)
		message := e.Error()
		var p Positioned
		if errors.As(e, &p) {
			line, column = p.Position()
			line, column = d.locate(key, line, column)
			message = p.Description()
		}
		d.note(&Problem{Line: line, Column: column, Key: key, Message: message})
	}
}

// positioned returns the Positioned errors within err, or err itself if there are none.
func positioned(err error) []error {
	var out []error
	var visit func(error)
	visit = func(e error) {
		if _, ok := e.(Positioned); ok {
			out = append(out, e)
			return
		}
		switch u := e.(type) {
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				visit(e)
			}
		case interface{ Unwrap() error }:
			if e := u.Unwrap(); e != nil {
				visit(e)
			}
		}
	}
	visit(err)
	if out == nil {
		return []error{err}
	}
	return out
}
