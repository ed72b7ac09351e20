// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"testing"
)

// Whatever is in the file: it loads, and is then valid by itself, or every problem has its place.
func FuzzParse(f *testing.F) {
	for _, m := range mistakes {
		f.Add([]byte(m.text))
	}
	f.Add([]byte(minimal))
	f.Add([]byte("a: &a [*a, *a]\n"))
	f.Add([]byte("? {a: b}\n: [c]\n"))
	f.Add([]byte("services: [{name: a, upstream: 'a:1', allow: >\n  BAD}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parse("f.yaml", "/", text, Hooks{Compile: compile, CompileClaims: compile, SkipFiles: true})
		if err == nil {
			if err := c.Validate(Hooks{Compile: compile, CompileClaims: compile, SkipFiles: true}); err != nil {
				t.Fatalf("loaded, but not valid: %v", err)
			}
			return
		}
		var ps Problems
		if c != nil || !errors.As(err, &ps) || len(ps) == 0 {
			t.Fatalf("%v, %#v", c, err)
		}
		lines := newDocument("", string(text)).lines
		for _, p := range ps {
			if p.Message == "" || p.Line < 0 || p.Line > len(lines)+1 || p.Line > 0 && p.Column < 1 {
				t.Fatalf("%+v in a file of %d lines", p, len(lines))
			}
			_ = p.Error()
		}
	})
}
