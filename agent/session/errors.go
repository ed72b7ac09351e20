// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"fmt"
)

// Errors of the session table. Match them with errors.Is.
var (
	// ErrUnknownKey: no session was ever known for this client key (or it is long forgotten).
	ErrUnknownKey = errors.New("no session for this client key")
	// ErrTooMany: a limit on sessions or connections is reached.
	ErrTooMany = errors.New("too many")
	// ErrKeyInUse: the client key has a live session already; a key has one at a time.
	ErrKeyInUse = errors.New("has a live session already: sign out first, or use a fresh key")
	// ErrWatermark: every session of the identity that is as old as this has been ended.
	ErrWatermark = errors.New("all sessions of the identity up to now were ended: try again")
	// ErrNotFresh: the user was authenticated before something happened that makes that worthless. See Watermark.Fresh.
	ErrNotFresh = errors.New("the user has to be authenticated anew")
	// ErrCredentialUsed: what the session was to be created with has made one of another client key.
	ErrCredentialUsed = errors.New("the token has been used with another key")
	// ErrExists: a session with this ID is known already.
	ErrExists = errors.New("exists already")
	// ErrNotFound: no session matches.
	ErrNotFound = errors.New("no such session")
	// ErrStale: what a connection was allowed on has changed, or may have, while it was on its way.
	ErrStale = errors.New("policy or claims have changed")
)

// EndedError is returned where a session was found, but is over.
type EndedError struct {
	ID  ID
	End End
}

func (e *EndedError) Error() string {
	msg := fmt.Sprintf("session %s has ended: %s", e.ID.Short(), e.End.Reason)
	if e.End.Message != "" {
		msg += " (" + e.End.Message + ")"
	}
	return msg
}

// Refusal is an error that carries the Reason under which it is logged and counted. Every
// connection that is not relayed ends in one.
type Refusal struct {
	Reason Reason
	Err    error
}

func (r *Refusal) Error() string {
	if r.Err == nil {
		return string(r.Reason)
	}
	return string(r.Reason) + ": " + r.Err.Error()
}

func (r *Refusal) Unwrap() error { return r.Err }

// Refuse wraps err with the reason it is refused for.
func Refuse(reason Reason, err error) *Refusal { return &Refusal{Reason: reason, Err: err} }

// ReasonOf digs the reason out of err: of a Refusal, of an EndedError, or ReasonInternal.
func ReasonOf(err error) Reason {
	var r *Refusal
	var e *EndedError
	switch {
	case errors.As(err, &r):
		return r.Reason
	case errors.As(err, &e):
		return e.End.Reason
	case errors.Is(err, ErrUnknownKey):
		return ReasonUnknownKey
	case errors.Is(err, ErrTooMany):
		return ReasonTooMany
	}
	return ReasonInternal
}
