// SPDX-License-Identifier: Apache-2.0

package policy

import "cel.dev/cel-go/cel"

// Claims is a compiled expression about the claims of a token. Safe for concurrent use.
type Claims struct {
	prg cel.Program
}

// CompileClaims compiles an expression over claims, a map of what a token says; errors are as those of Compile.
func CompileClaims(expr string) (*Claims, error) {
	prg, err := compile(claimsEnv, expr, costOfPolicy)
	if err != nil {
		return nil, err
	}
	return &Claims{prg: prg}, nil
}

// Allow evaluates the expression. The values of claims are those of JSON: string, bool, int64, float64, nil,
// []any and map[string]any. It is false whenever the error is not nil, also because a claim is missing.
func (c *Claims) Allow(claims map[string]any) (bool, error) {
	return eval(c.prg, claimVars(claims))
}

type claimVars map[string]any

func (v claimVars) ResolveName(name string) (any, bool) { return map[string]any(v), name == "claims" }
func (v claimVars) Parent() cel.Activation              { return nil }
