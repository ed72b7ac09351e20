// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC) // a Monday

func alice() *session.Session {
	return &session.Session{
		ID: session.ID{1}, Method: "browser", Created: noon.Add(-time.Hour), Deadline: noon.Add(11 * time.Hour),
		Identity: session.Identity{
			Issuer: "https://idp.example", Subject: "alice", Name: "Alice", Email: "alice@example.com",
			Groups: []string{"dev", "dba"}, ACR: "urn:mfa", AMR: []string{"pwd", "otp"}, AuthTime: noon.Add(-10 * time.Minute),
		},
	}
}

func input(s *session.Session) Input {
	return Input{Session: s, Service: "db", Source: netip.MustParseAddr("::ffff:10.1.2.3"), Now: noon}
}

func TestAllow(t *testing.T) {
	for expr, want := range map[string]bool{
		`true`:                                  true,
		`false`:                                 false,
		`identity.groups.exists(g, g == "dba")`: true,
		`"dba" in identity.groups`:              true,
		`"root" in identity.groups`:             false,
		`sets.intersects(identity.groups, ["sre", "dba"])`:                       true,
		`identity.issuer == "https://idp.example"`:                               true,
		`identity.subject == "alice" && identity.name == "Alice"`:                true,
		`identity.email.endsWith("@example.com")`:                                true,
		`identity.email.lowerAscii().matches("^a[a-z]+@example[.]com$")`:         true,
		`identity.acr == "urn:mfa" && "otp" in identity.amr`:                     true,
		`now - identity.auth_time < duration("15m")`:                             true,
		`now - identity.auth_time < duration("5m")`:                              false,
		`service.name == "db"`:                                                   true,
		`cidr("10.0.0.0/8").containsIP(source)`:                                  true,
		`cidr("192.168.0.0/16").containsIP(source)`:                              false,
		`source == "10.1.2.3"`:                                                   true, // IPv4 also on an IPv6 socket
		`ip(source).family() == 4`:                                               true,
		`session.method == "browser" && now - session.created >= duration("1h")`: true,
		`now.getDayOfWeek() in [1, 2, 3, 4, 5] && now.getHours() >= 8`:           true,
		`session.id.size() == 26 && session.deadline > now`:                      true,
	} {
		p, err := Compile(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		if got, err := p.Allow(input(alice())); err != nil || got != want {
			t.Errorf("%s = %v, %v; want %v", expr, got, err, want)
		}
	}
}

// A provider that does not say when the user signed in must not count as "just now".
func TestUnknownAuthTimeIsLongAgo(t *testing.T) {
	s := alice()
	s.Identity.AuthTime = time.Time{}
	p, err := Compile(`now - identity.auth_time < duration("8760h")`)
	if err != nil {
		t.Fatal(err)
	}
	if ok, _ := p.Allow(input(s)); ok {
		t.Error("allowed")
	}
}

func TestCompileErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		expr         string
		line, column int
		want         string
	}{
		"unknown field":    {`identity.grups.exists(g, g == "dba")`, 1, 9, "undefined field 'grups'"},
		"unknown variable": {`user == "x"`, 1, 1, "undeclared reference to 'user'"},
		"second line":      {"true &&\n  identity.x == 1", 2, 11, "undefined field 'x'"},
		"wrong type":       {`identity.subject == 1`, 1, 18, "no matching overload"},
		"syntax":           {`identity.subject == `, 1, 21, "Syntax error"},
		"not a bool":       {`identity.subject`, 1, 1, "want a bool"},
		"empty":            {``, 1, 1, "Syntax error"},
		"bad cidr":         {`cidr("10.0.0.0/33").containsIP(source)`, 1, 6, "10.0.0.0/33"},
		"bad duration":     {`now - session.created > duration("1 hour")`, 1, 34, "duration"},
		"bad regex":        {`identity.email.matches("(")`, 1, 24, "matches"},
		"dynamic":          {`dyn(identity.groups)`, 1, 1, "want a bool"},
		"too deep":         {strings.Repeat("(", 500) + "true" + strings.Repeat(")", 500), 1, 1, "recursion"},
		"too long":         {`"` + strings.Repeat("x", 1<<15) + `" == ""`, 1, 1, "size"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(tc.expr)
			if p != nil || err == nil {
				t.Fatal("compiled")
			}
			var all Errors
			if !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("%T %v, want Errors", err, err)
			}
			e := all[0]
			if e.Line != tc.line || e.Column != tc.column || !strings.Contains(e.Message, tc.want) {
				t.Errorf("%v, want %d:%d with %q", e, tc.line, tc.column, tc.want)
			}
		})
	}
}

func TestAllErrorsAreReported(t *testing.T) {
	_, err := Compile("identity.x == 1 &&\nidentity.y == 2")
	var all Errors
	if !errors.As(err, &all) || len(all) != 2 || all[0].Line != 1 || all[1].Line != 2 {
		t.Errorf("%v, want both lines", err)
	}
	var one *Error
	if !errors.As(err, &one) {
		t.Error("errors.As does not find an *Error")
	}
}

func TestRunTimeErrorsDeny(t *testing.T) {
	many := alice()
	for i := range 2000 {
		many.Identity.Groups = append(many.Identity.Groups, fmt.Sprint("group-", i))
	}
	for name, tc := range map[string]struct {
		expr string
		sess *session.Session
	}{
		"index":       {`identity.groups[99] == "x" || false`, alice()},
		"division":    {`1 / (now.getSeconds() - now.getSeconds()) == 1`, alice()},
		"bad address": {`cidr("10.0.0.0/8").containsIP(identity.name)`, alice()},
		"too costly":  {`identity.groups.all(a, identity.groups.all(b, a != b || a == b))`, many},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(tc.expr)
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := p.Allow(input(tc.sess)); ok || err == nil {
				t.Errorf("Allow = %v, %v; want an error", ok, err)
			}
			set, err := NewSet(map[string]Rule{"db": {Allow: tc.expr}}, func() time.Time { return noon })
			if err != nil {
				t.Fatal(err)
			}
			err = set.Authorize(*tc.sess, "db", netip.MustParseAddrPort("10.0.0.1:99"))
			if session.ReasonOf(err) != session.ReasonDenied {
				t.Errorf("Authorize = %v, want denied", err)
			}
		})
	}
}

func TestSet(t *testing.T) {
	set, err := NewSet(map[string]Rule{
		"db":    {Allow: `"dba" in identity.groups`},
		"vault": {Allow: `"security" in identity.groups`},
	}, func() time.Time { return noon })
	if err != nil {
		t.Fatal(err)
	}
	for service, allowed := range map[string]bool{"db": true, "vault": false, "unknown": false, "": false} {
		err := set.Authorize(*alice(), service, netip.MustParseAddrPort("[fe80::1%eth0]:99"))
		var refusal *session.Refusal
		if allowed != (err == nil) || !allowed && (!errors.As(err, &refusal) || refusal.Reason != session.ReasonDenied) {
			t.Errorf("Authorize(%q) = %v, want allowed %v", service, err, allowed)
		}
	}
	_, err = NewSet(map[string]Rule{"a": {Allow: `x`}, "b": {Allow: `y`}}, time.Now)
	if err == nil || !strings.Contains(err.Error(), `"a"`) || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("NewSet: %v, want both services", err)
	}
}

func TestSelector(t *testing.T) {
	conn := &session.Connection{Service: "db", Source: netip.MustParseAddrPort("10.0.0.1:4000"), Opened: noon.Add(-3 * time.Hour)}
	conn.Activity.BytesFromUpstream.Store(1 << 63) // more than an int64
	conns := []*session.Connection{conn}
	for expr, want := range map[string]bool{
		`identity.subject == "alice"`: true,
		`connections.exists(c, c.service == "db" && now - c.opened > duration("2h"))`:        true,
		`connections.exists(c, c.service == "db" && now - c.opened > duration("4h"))`:        false,
		`connections.exists(c, cidr("10.0.0.0/8").containsIP(c.source))`:                     true,
		`connections.exists(c, c.bytes_from_upstream > 1000000 && c.bytes_from_client == 0)`: true,
		`size(connections) == 0`:     false,
		`session.method == "device"`: false,
	} {
		s, err := CompileSelector(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		if got, err := s.Match(alice(), conns, noon); err != nil || got != want {
			t.Errorf("%s = %v, %v; want %v", expr, got, err, want)
		}
	}
	if _, err := CompileSelector(`source == "10.0.0.1"`); err == nil {
		t.Error("a selector has no source of its own, yet it compiled")
	}
}

func TestConcurrentUse(t *testing.T) {
	p, err := Compile(`identity.groups.exists(g, g == "dba") && identity.email.matches("^a")`)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for range 8 {
		go func() {
			for range 200 {
				if ok, err := p.Allow(input(alice())); !ok || err != nil {
					done <- fmt.Errorf("Allow = %v, %w", ok, err)
					return
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Whatever is written as a policy either does not compile, with a position, or decides.
func FuzzCompile(f *testing.F) {
	for _, seed := range []string{
		`true`, `"dba" in identity.groups`, `identity.groups.exists(g, g == "dba")`, `cidr("10.0.0.0/8").containsIP(source)`,
		`now - identity.auth_time < duration("1h")`, `identity.x`, `(`, "\x00", `"\xff"`, `identity.groups.map(g, g)[0] == "a"`,
		`session.Identity{subject: "x"}.subject == identity.subject`, `"%s".format([identity]) != ""`, `[1].all(x, [x].all(y, y == x))`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		p, err := Compile(expr)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Line < 1 || e.Column < 1 || e.Message == "" {
				t.Fatalf("%q: %#v has no position", expr, err)
			}
			return
		}
		if ok, err := p.Allow(input(alice())); ok && err != nil {
			t.Fatalf("%q: allowed with an error: %v", expr, err)
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		if _, err := Compile(`identity.groups.exists(g, g == "dba")`); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAllow(b *testing.B) {
	for name, expr := range map[string]string{
		"true":   `true`,
		"in":     `"dba" in identity.groups`,
		"exists": `identity.groups.exists(g, g == "dba")`,
		"cidr":   `cidr("10.0.0.0/8").containsIP(source)`,
		"recent": `now - identity.auth_time < duration("8h")`,
	} {
		b.Run(name, func(b *testing.B) {
			p, err := Compile(expr)
			if err != nil {
				b.Fatal(err)
			}
			in := input(alice())
			b.ReportAllocs()
			for b.Loop() {
				if ok, err := p.Allow(in); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}

// The examples of the documentation compile.
func TestDocumentation(t *testing.T) {
	b, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	before, claims, _ := strings.Cut(text, "## Claims")
	claims, _, _ = strings.Cut(claims, "\n## ")
	allow := regexp.MustCompile("(?s)allow: '([^']*)'|allow: \\|\n(.*?)```")
	policies, rules := allow.FindAllStringSubmatch(before, -1), allow.FindAllStringSubmatch(claims, -1)
	selectors := regexp.MustCompile(`--where '([^']*)'`).FindAllStringSubmatch(text, -1)
	if len(policies) < 2 || len(rules) < 2 || len(selectors) < 2 {
		t.Fatalf("%d policies, %d rules and %d selectors found", len(policies), len(rules), len(selectors))
	}
	for _, r := range rules {
		if _, err := CompileClaims(r[1] + r[2]); err != nil {
			t.Errorf("%s: %v", r[0], err)
		}
	}
	for _, p := range policies {
		if _, err := Compile(p[1] + p[2]); err != nil {
			t.Errorf("%s: %v", p[0], err)
		}
	}
	for _, s := range selectors {
		if _, err := CompileSelector(s[1]); err != nil {
			t.Errorf("%s: %v", s[0], err)
		}
	}
	for _, field := range []string{
		`identity.issuer == identity.subject`, `identity.name == identity.email`, `identity.acr in identity.amr`, `identity.auth_time < now`,
		`service.name == source`, `session.id == session.method`, `session.created < session.deadline`,
		`ip(source).isLoopback()`, `sets.contains(identity.amr, ["pwd", "otp"])`, `identity.email.split("@")[0].trim().replace("a", "b") == ""`,
	} {
		if _, err := Compile(field); err != nil {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// alice signed in with a second factor, ten minutes before noon.
func TestSetRequires(t *testing.T) {
	for _, tc := range []struct {
		name        string
		rule        Rule
		begin, live session.Reason // empty: allowed
		message     string
	}{
		{"all there", Rule{`true`, session.Requirement{ACR: []string{"urn:mfa"}, AMR: []string{"otp"}, MaxAge: 15 * time.Minute}}, "", "", ""},
		{"acr", Rule{`true`, session.Requirement{ACR: []string{"urn:phr"}}}, session.ReasonStepUp, session.ReasonStepUp, `acr is "urn:mfa"`},
		{"amr", Rule{`true`, session.Requirement{AMR: []string{"hwk"}}}, session.ReasonStepUp, session.ReasonStepUp, "amr lacks hwk"},
		{"too old to begin", Rule{`true`, session.Requirement{MaxAge: 5 * time.Minute}}, session.ReasonStepUp, "", "10m0s ago"},
		{"who may not is not asked for more", Rule{`false`, session.Requirement{ACR: []string{"urn:phr"}}}, session.ReasonDenied, session.ReasonDenied, "does not allow"},
	} {
		set, err := NewSet(map[string]Rule{"db": tc.rule}, func() time.Time { return noon })
		if err != nil {
			t.Fatal(err)
		}
		source := netip.MustParseAddrPort("192.0.2.1:99")
		begin, live := set.Authorize(*alice(), "db", source), set.Reauthorize(*alice(), "db", source)
		if !refusedFor(begin, tc.begin) || !refusedFor(live, tc.live) || begin != nil && !strings.Contains(begin.Error(), tc.message) {
			t.Errorf("%s: begin %v, live %v", tc.name, begin, live)
		}
	}
}

func refusedFor(err error, want session.Reason) bool {
	return (err == nil) == (want == "") && (err == nil || session.ReasonOf(err) == want)
}
