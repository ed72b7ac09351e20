// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"reflect"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Bounds on expressions. The cost is CEL's own unit, about one elementary step: a policy that
// looks a group up among a thousand costs a few thousand.
const (
	maxExpression   = 16 << 10 // characters
	maxNesting      = 100
	maxRegexProgram = 1000 // instructions
	costOfPolicy    = 100_000
	costOfSelector  = 1_000_000
)

// The objects that expressions see; the json tags are the names of their fields. An identity is
// a session.Identity as it is.
type (
	// Service is the service that a connection is for.
	Service struct {
		Name string `json:"name"`
	}
	// Session is the session that a connection belongs to.
	Session struct {
		ID       string    `json:"id"`
		Method   string    `json:"method"`
		Created  time.Time `json:"created"`
		Deadline time.Time `json:"deadline"`
	}
	// Connection is a live connection of a session, for selectors.
	Connection struct {
		Service           string    `json:"service"`
		Source            string    `json:"source"`
		Opened            time.Time `json:"opened"`
		BytesFromClient   int64     `json:"bytes_from_client"`
		BytesFromUpstream int64     `json:"bytes_from_upstream"`
	}
)

func sessionVars(s *session.Session) Session {
	return Session{ID: s.ID.String(), Method: s.Method, Created: s.Created, Deadline: s.Deadline}
}

// The variables, by environment.
var (
	policyEnv = sync.OnceValues(func() (*cel.Env, error) {
		return newEnv(
			cel.Variable("service", cel.ObjectType("policy.Service")),
			cel.Variable("source", cel.StringType),
		)
	})
	selectorEnv = sync.OnceValues(func() (*cel.Env, error) {
		return newEnv(
			cel.Variable("connections", cel.ListType(cel.ObjectType("policy.Connection"))),
		)
	})
	claimsEnv = sync.OnceValues(func() (*cel.Env, error) {
		return bareEnv(cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)))
	})
)

// newEnv is the environment of expressions about sessions.
func newEnv(opts ...cel.EnvOption) (*cel.Env, error) {
	return bareEnv(append([]cel.EnvOption{
		ext.NativeTypes(ext.ParseStructTag("json"),
			reflect.TypeFor[session.Identity](), reflect.TypeFor[Service](),
			reflect.TypeFor[Session](), reflect.TypeFor[Connection]()),
		cel.Variable("identity", cel.ObjectType("session.Identity")),
		cel.Variable("session", cel.ObjectType("policy.Session")),
		cel.Variable("now", cel.TimestampType),
	}, opts...)...)
}

// bareEnv has the language and its bounds, and no variables.
func bareEnv(opts ...cel.EnvOption) (*cel.Env, error) {
	env, err := cel.NewEnv(append([]cel.EnvOption{
		ext.Network(), ext.Sets(), ext.Strings(),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(maxNesting),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(),
			cel.ValidateRegexLiterals(), cel.ValidateRegexProgramSizeLimit(maxRegexProgram)),
	}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("build policy environment: %w", err)
	}
	return env, nil
}

// compile checks expr in env and makes it runnable. What is wrong with expr is Errors.
func compile(env func() (*cel.Env, error), expr string, cost uint64) (cel.Program, error) {
	e, err := env()
	if err != nil {
		return nil, err
	}
	ast, issues := e.Compile(expr)
	if issues.Err() != nil {
		return nil, fromIssues(issues)
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) {
		return nil, Errors{{Line: 1, Column: 1, Message: fmt.Sprintf("the expression is a %s; want a bool: true allows", t)}}
	}
	prg, err := e.Program(ast, cel.CostLimit(cost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, Errors{{Line: 1, Column: 1, Message: err.Error()}}
	}
	return prg, nil
}

// eval runs prg; anything but a bool is an error.
func eval(prg cel.Program, vars cel.Activation) (bool, error) {
	out, _, err := prg.Eval(vars)
	if err != nil {
		return false, fmt.Errorf("evaluate: %w", err)
	}
	yes, ok := out.Value().(bool)
	if !ok {
		return false, fmt.Errorf("evaluate: the expression is a %T, not a bool", out.Value())
	}
	return yes, nil
}
