// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Selector is a compiled expression that picks sessions, for kill --where. Safe for concurrent use.
type Selector struct {
	prg cel.Program
}

// CompileSelector compiles an expression over a session and its live connections; errors are as
// those of Compile.
func CompileSelector(expr string) (*Selector, error) {
	prg, err := compile(selectorEnv, expr, costOfSelector)
	if err != nil {
		return nil, err
	}
	return &Selector{prg: prg}, nil
}

// Match reports whether the selector picks the session s, whose live connections are conns. An
// error means that it could not be told: the caller must not take it for a no.
func (s *Selector) Match(sess *session.Session, conns []*session.Connection, now time.Time) (bool, error) {
	return eval(s.prg, &selectorVars{sess, conns, now})
}

type selectorVars struct {
	session *session.Session
	conns   []*session.Connection
	now     time.Time
}

func (v *selectorVars) ResolveName(name string) (any, bool) {
	switch name {
	case "identity":
		return v.session.Identity, true
	case "session":
		return sessionVars(v.session), true
	case "connections":
		return connectionVars(v.conns), true
	case "now":
		return v.now, true
	}
	return nil, false
}

func (v *selectorVars) Parent() cel.Activation { return nil }

func connectionVars(conns []*session.Connection) []Connection {
	out := make([]Connection, len(conns))
	for i, c := range conns {
		out[i] = Connection{
			Service:           c.Service,
			Source:            addressText(c.Source.Addr()),
			Opened:            c.Opened,
			BytesFromClient:   clamp(c.Activity.BytesFromClient.Load()),
			BytesFromUpstream: clamp(c.Activity.BytesFromUpstream.Load()),
		}
	}
	return out
}

func clamp(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
