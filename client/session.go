// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Status asks the agent for the session of the key in the store. A session that has ended is
// returned as such, with the reason, and its key is wiped; the last reason is remembered.
// It returns an *api.Error with a hint if there never was one.
func Status(ctx context.Context, agent *Agent) (api.Session, error) {
	signedIn, err := agent.SignedIn()
	if err != nil {
		if last, lastErr := agent.Store.LoadSession(); lastErr == nil && last.Ended != nil {
			return last, nil
		}
		return api.Session{}, err
	}
	return signedIn.status(ctx)
}

// status needs the client key, as SignedIn has it.
func (a *Agent) status(ctx context.Context) (sess api.Session, err error) {
	if err := a.do(ctx, http.MethodGet, api.PathSession, nil, &sess); err != nil {
		return sess, err
	}
	return sess, a.Store.SaveSession(*a.cert, sess)
}

// Logout ends the session of the key in the store and wipes the key. If the agent does not
// answer, the key is wiped all the same, and the error says that the session lives on. With atProvider, the answer has the
// page at which the user's browser signs out there, too.
func Logout(ctx context.Context, agent *Agent, atProvider bool) (api.LoggedOut, error) {
	var out api.LoggedOut
	signedIn, err := agent.SignedIn()
	if err != nil {
		return out, errors.Join(err, agent.Store.WipeKey())
	}
	path := api.PathSession
	if atProvider {
		path += "?provider=true"
	}
	err = signedIn.do(ctx, http.MethodDelete, path, nil, &out)
	var e *api.Error
	switch {
	case err == nil:
		return out, agent.Store.SaveSession(*signedIn.cert, out.Session)
	case errors.As(err, &e) && e.Code == api.CodeUnreachable:
		err = &api.Error{Code: e.Code, Cause: e.Cause,
			Message: "the key is wiped here, but the agent could not be told: " + e.Message,
			Hint:    "the session lives on at the agent until it times out; an operator can end it with `curfew kill`"}
	}
	return out, errors.Join(err, agent.Store.WipeKey())
}

// EndedError says that the user's session is over. Exit status 4 stands for it.
type EndedError struct {
	Reason session.Reason
	told   *api.Error
}

func (e *EndedError) Error() string { return e.told.Message }

// ExitEnded is the exit status for a session that has ended.
const ExitEnded = 4

// ExitCode returns the exit status that stands for the error.
func (e *EndedError) ExitCode() int { return ExitEnded }

// Unwrap makes the hint visible to errors.As.
func (e *EndedError) Unwrap() error { return e.told }

var reasons = map[session.Reason]string{
	session.ReasonAbsolute:    "its time was up",
	session.ReasonConflict:    "the agents of the cluster contradict each other about it",
	session.ReasonReplayed:    "the token it was made with was used with another key, too",
	session.ReasonUnvalidated: "the identity provider could not be asked about it for too long",
	session.ReasonIdle:        "it was idle for too long",
	session.ReasonKilled:      "an operator ended it",
	session.ReasonLogout:      "you signed out",
	session.ReasonProvider:    "the identity provider ended it",
	session.ReasonPolicy:      "policy does not allow it any more",
	session.ReasonSuperseded:  "a newer sign-in took its place",
	session.ReasonWatermark:   "an operator ended all sessions from before",
	session.ReasonLost:        "the agent lost its state",
	session.ReasonUnavailable: "the agent could not enforce it any longer",
}

// Ended returns the error for a session that has ended.
func Ended(sess api.Session) *EndedError {
	why, ok := reasons[sess.Ended.Reason]
	if !ok {
		why = string(sess.Ended.Reason)
	}
	msg := fmt.Sprintf("your session has ended: %s (%s)", why, sess.Ended.Reason)
	if sess.Ended.Message != "" {
		msg += fmt.Sprintf(": %q", sess.Ended.Message)
	}
	return &EndedError{Reason: sess.Ended.Reason,
		told: &api.Error{Code: api.CodeSessionEnded, Message: msg, Hint: "run `curfew login` to sign in again"}}
}

// explain finds out why a connection broke: it asks the agent for the session. It returns an
// *EndedError if that is over, and cause if the session has nothing to do with it.
func (a *Agent) explain(ctx context.Context, cause error) error {
	sess, err := a.status(ctx)
	var e *api.Error
	switch {
	case err == nil && sess.Ended != nil:
		return Ended(sess)
	case errors.As(err, &e) && e.Code == api.CodeUnknownKey:
		return &EndedError{Reason: session.ReasonUnknownKey, told: &api.Error{Code: e.Code, Cause: cause,
			Message: "your session has ended, and the agent does not remember why", Hint: "run `curfew login` to sign in again"}}
	case errors.As(err, &e) && e.Code == api.CodeUnreachable:
		return errors.Join(cause, err)
	}
	return cause
}
