// SPDX-License-Identifier: Apache-2.0

package opinion

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// Bounds on the texts of an answer, in bytes: they are logged and shown to people.
const (
	maxReason   = jose.MaxText
	maxDecision = 128
)

// answer is what an engine said.
type answer struct {
	allow    bool
	reason   string // of a no; may be empty
	decision string // how the engine's decision log calls it; empty where it keeps none
}

var (
	errUndefined = errors.New("the decision is undefined: the engine has no policy there, or none of its rules applies")
	errShape     = errors.New(`want the result to be true or false, or an object with "allow" and perhaps "reason"`)
)

// parse reads the body of an answer. Beside an error the decision may be known.
func parse(body []byte) (answer, error) {
	all, err := jose.ParseClaims(body) // encoding/json would take RESULT for result
	if err != nil {
		return answer{}, fmt.Errorf("not a strict JSON object: %w", err)
	}
	var a answer
	if id, err := all.Text("decision_id"); err == nil && len(id) <= maxDecision && jose.IsPrintable(id) {
		a.decision = id
	}
	result, ok := all["result"]
	if !ok {
		return a, errUndefined
	}
	if is, err := boolean(result); err == nil {
		a.allow = is
		return a, nil
	}
	object, err := jose.ParseClaims(result)
	if err != nil {
		return a, errShape
	}
	reason, err := object.Text("reason")
	if err != nil {
		return a, errShape
	}
	allow, err := boolean(object["allow"])
	if err != nil {
		return a, err
	}
	a.allow, a.reason = allow, printable(reason)
	return a, nil
}

// boolean reads true or false; null and nothing are neither, unlike to encoding/json.
func boolean(raw json.RawMessage) (bool, error) {
	switch string(raw) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errShape
}

// printable makes a text safe for a terminal, and short.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "…"
	}
	return s
}
