// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"strings"
	"testing"
)

func TestClaims(t *testing.T) {
	claims := map[string]any{
		"sub": "repo:org/app:ref:refs/heads/main", "run": int64(9007199254740993), "ratio": 1.5, "protected": true, "nothing": nil,
		"aud": []any{"us"}, "kubernetes.io": map[string]any{"namespace": "prod", "pod": map[string]any{"name": "a"}},
	}
	for expr, want := range map[string]string{
		`claims.sub.startsWith("repo:org/")`:             "yes",
		`claims["kubernetes.io"].namespace == "prod"`:    "yes",
		`claims["kubernetes.io"].pod.name in ["a", "b"]`: "yes",
		`claims.run == 9007199254740993`:                 "yes",
		`claims.run == 9007199254740992`:                 "no",
		`claims.ratio > 1`:                               "yes",
		`claims.protected == true`:                       "yes",
		`"us" in claims.aud`:                             "yes",
		`has(claims.missing) && claims.missing == 1`:     "no",
		`claims.nothing == null`:                         "yes",
		`claims.missing == "x"`:                          "no such key",
		`claims.protected || false`:                      "yes",
		`claims.sub || false`:                            "no such overload",
		`[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, claims.run > a + b + c + d + e)))))`: "cost",
	} {
		c, err := CompileClaims(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		yes, err := c.Allow(claims)
		switch {
		case err != nil && (yes || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, %v; want %q", expr, yes, err, want)
		case err == nil && yes != (want == "yes"):
			t.Errorf("%s: %v; want %q", expr, yes, want)
		}
	}
	for _, expr := range []string{`identity.subject == "a"`, `claims ==`, `now > now`, `1`, `claims.protected`} {
		var es Errors
		if _, err := CompileClaims(expr); !errors.As(err, &es) {
			t.Errorf("%s: %v; want Errors", expr, err)
		}
	}
}
