// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
)

// Error is one thing wrong with an expression, and where.
type Error struct {
	Line, Column int // within the expression, from 1; columns count characters
	Message      string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Message)
}

// Position returns the line and the column within the expression, from 1.
func (e *Error) Position() (line, column int) { return e.Line, e.Column }

// Description returns the message without the position.
func (e *Error) Description() string { return e.Message }

// Errors is everything wrong with an expression. It is never empty.
type Errors []*Error

func (es Errors) Error() string {
	texts := make([]string, len(es))
	for i, e := range es {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap lets errors.As find each *Error.
func (es Errors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}

func fromIssues(issues *cel.Issues) Errors {
	var es Errors
	for _, i := range issues.Errors() {
		es = append(es, &Error{
			Line:    max(i.Location.Line(), 1),
			Column:  max(i.Location.Column()+1, 1), // CEL counts columns from 0
			Message: strings.ReplaceAll(i.Message, "policy.", ""),
		})
	}
	return es
}
