// SPDX-License-Identifier: Apache-2.0

package api

// Codes of errors.
const (
	CodeBadRequest  = "bad-request" // the request makes no sense as it stands
	CodeForbidden   = "forbidden"   // the caller may not
	CodeNotFound    = "not-found"   // nothing matches
	CodeTooMany     = "too-many"    // a limit is reached
	CodeUnavailable = "unavailable" // the agent cannot at the moment
	CodeUnreachable = "unreachable" // made by clients: no agent answers
	CodeInternal    = "internal"    // a bug; see the agent's log
)

// Error is the body of every answer that is not a success. It is an error for Go code too.
type Error struct {
	Code    string `json:"error"`          // one of the Code constants
	Message string `json:"message"`        // what went wrong, for people
	Hint    string `json:"hint,omitempty"` // what to do about it
	Cause   error  `json:"-"`              // set by clients where there is one
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, if there is one on this side of the wire.
func (e *Error) Unwrap() error { return e.Cause }
