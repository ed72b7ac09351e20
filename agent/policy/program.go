// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Program is a compiled policy of a service. Safe for concurrent use.
type Program struct {
	expr string
	prg  cel.Program
}

// Compile checks a policy and compiles it. Everything that is wrong with the expression is
// reported as Errors, with line and column.
func Compile(expr string) (*Program, error) {
	prg, err := compile(policyEnv, expr, costOfPolicy)
	if err != nil {
		return nil, err
	}
	return &Program{expr: expr, prg: prg}, nil
}

func (p *Program) String() string { return p.expr }

// Input is what a policy decides about.
type Input struct {
	Session *session.Session // with its identity; read during Allow only
	Service string
	Source  netip.Addr // the client's address
	Now     time.Time  // wall time
}

// Allow evaluates the policy. It is false whenever the error is not nil.
func (p *Program) Allow(in Input) (bool, error) { return eval(p.prg, &policyVars{in}) }

// policyVars resolves the variables when they are used: most policies use one.
type policyVars struct{ in Input }

func (v *policyVars) ResolveName(name string) (any, bool) {
	switch name {
	case "identity":
		return v.in.Session.Identity, true
	case "session":
		return sessionVars(v.in.Session), true
	case "service":
		return Service{Name: v.in.Service}, true
	case "source":
		return addressText(v.in.Source), true
	case "now":
		return v.in.Now, true
	}
	return nil, false
}

func (v *policyVars) Parent() cel.Activation { return nil }

// addressText is the one form in which expressions see an address: IPv4 as IPv4 also when the
// socket was IPv6, and without a zone, so that comparing and cidr() work.
func addressText(a netip.Addr) string { return a.Unmap().WithZone("").String() }
