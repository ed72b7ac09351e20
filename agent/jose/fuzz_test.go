// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/curfew-proxy/curfew/test/jwt"
)

func FuzzClaims(f *testing.F) {
	for _, seed := range []string{
		`{"sub":"alice","groups":["a"],"iat":1.5}`, `{"sub":"a","SUB":"b"}`, "{\"i\u017fs\":1,\"iss\":2}",
		`{"sub":"a","sub":"b"}`, `{}`, `[]`, `{"sub":"\u0000"}`, `{"sub":"a"}{}`, `{"groups":{"x":["y"]}}`, `{"iat":1e400}`, "\xff",
	} {
		f.Add([]byte(seed), "groups")
		f.Add([]byte(seed), "/groups/x")
	}
	f.Fuzz(func(t *testing.T, payload []byte, path string) {
		c, err := ParseClaims(payload)
		if err != nil {
			return
		}
		if raw, err := c.At(path); err == nil {
			_, _ = Texts(path, raw)
		}
		_, _ = c.Instant("iat")
		if values, err := c.Values(); err != nil || len(values) != len(c) {
			t.Fatalf("%q: values %v, %v", payload, values, err)
		}
		// What encoding/json, and so go-oidc, would read must be what was read here.
		var loose struct {
			Sub string `json:"sub"`
		}
		looseErr := json.Unmarshal(payload, &loose)
		sub, err := c.Subject()
		if err != nil {
			return
		}
		if looseErr != nil || loose.Sub != sub {
			t.Fatalf("%q: sub is %q here, %q to encoding/json (%v)", payload, sub, loose.Sub, looseErr)
		}
		if strings.ContainsFunc(sub, unicode.IsControl) || len(sub) > MaxSubject {
			t.Fatalf("%q got through", sub)
		}
	})
}

func FuzzTokenHeader(f *testing.F) {
	f.Add(jwt.Encode([]byte(`{"typ":"JWT"}`)) + ".e30.x")
	f.Add(jwt.Encode([]byte(`{"typ":"logout+jwt"}`)))
	f.Add("..")
	f.Fuzz(func(_ *testing.T, raw string) { _ = CheckType(raw, TypeJWT) })
}
