// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"strings"
	"testing"
)

// However a policy is quoted and folded, an error in it is shown where it was written.
func TestPolicyErrorsAreShownWhereTheyAre(t *testing.T) {
	for name, allow := range map[string]string{
		"plain":           "a && BAD",
		"plain, folded":   "a &&\n      b && BAD",
		"single quotes":   "'a == ''x'' && BAD'",
		"single, folded":  "'a == ''x''\n\n      && BAD'",
		"double quotes":   `"a == \"x\" && BAD"`,
		"double, folded":  "\"a &&\n        BAD\"",
		"literal":         "|\n      a &&\n        b\n      && BAD",
		"literal, strip":  "|-\n      a && BAD",
		"literal, indent": "|2\n       a &&\n       BAD",
		"folded":          ">\n      a &&\n      b &&\n      BAD",
		"folded, blank":   ">-\n      a &&\n\n      b &&\n\n\n        BAD",
		"comment":         "'a && BAD' # BAD is bad",
		"not ASCII":       "'\"é\U0001F600\" == x && BAD'",
		"carriage return": "|\r\n      a &&\r\n      BAD",
	} {
		t.Run(name, func(t *testing.T) {
			text := "services:\n  - name: db\n    upstream: a:1\n    allow: " + allow + "\n"
			_, err := load(t, text)
			var p *Problem
			if !errors.As(err, &p) {
				t.Fatal(err)
			}
			lines := strings.Split(text, "\n")
			rest := string([]rune(lines[p.Line-1])[p.Column-1:])
			if !strings.HasPrefix(rest, "BAD") {
				t.Errorf("%d:%d is %q\n%v", p.Line, p.Column, rest, err)
			}
		})
	}
}

// Escapes that stand for something else cannot be followed: the beginning of the value is shown.
func TestPolicyErrorBehindAnEscape(t *testing.T) {
	_, err := load(t, "services:\n  - name: db\n    upstream: a:1\n    allow: \"a \\x26\\x26 BAD\"\n")
	var p *Problem
	if !errors.As(err, &p) || p.Line != 4 || p.Column != 12 {
		t.Errorf("%v, want 4:12", err)
	}
}

func TestSuggest(t *testing.T) {
	names := []string{"listen", "plain_listen", "upstream", "upstream_tls", "allow", "tls_min"}
	for have, want := range map[string]string{
		"lisen": "listen", "upstram": "upstream", "usptream": "upstream", "upstream-tls": "upstream_tls", "Allow": "allow", "tlsmin": "tls_min",
		"password": "", "x": "", "": "", strings.Repeat("y", 1000): "",
	} {
		if got := suggest(have, names); got != want {
			t.Errorf("suggest(%q) = %q, want %q", have, got, want)
		}
	}
}
