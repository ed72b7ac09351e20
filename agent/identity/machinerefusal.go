// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"net/netip"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// notCreated wraps why the session table did not take a session.
type notCreated struct{ err error }

func (e *notCreated) Error() string { return e.err.Error() }
func (e *notCreated) Unwrap() error { return e.err }

// refuse counts and logs why a token made no session, and returns what its owner is told. No part of the token
// but single claims is in it.
func (ms *Machines) refuse(machine string, key session.Key, source netip.Addr, err error) error {
	event, told := explainRefusal(err)
	ms.failures.Failed(source, ms.now())
	ms.cfg.Count(event)
	ms.cfg.Log.Warn("machine token refused", "reason", event, "machine", jose.Printable(machine), "source", source,
		"client_key_sha256", key, "error", jose.Printable(err.Error()))
	return told
}

// explainRefusal says under what a refusal is counted, and how it is told.
func explainRefusal(err error) (event string, told error) {
	var none *errNoMachine
	var failed *notCreated
	var unread *api.Error
	switch {
	case errors.As(err, &none):
		return EventMachineUnknown, &api.Error{Code: api.CodeChooseMachine, Message: none.message, Hint: none.hint}
	case errors.Is(err, jose.ErrNoKeys): // the details are about our network
		return EventMachineUnavailable, &api.Error{Code: api.CodeUnavailable, Message: "the keys of the token's issuer cannot be had",
			Hint: "try again in a few seconds; the agent's log says why"}
	case errors.Is(err, errDeniedMachine): // how the rule reads is the operator's business
		return EventMachineDenied, &api.Error{Code: api.CodeForbidden, Message: errDeniedMachine.Error(),
			Hint: "the agent's log says which rule it fails"}
	case errors.Is(err, session.ErrCredentialUsed):
		return EventMachineReplayed, &api.Error{Code: api.CodeTokenUsed, Message: "this token was used with another client key",
			Hint: "use the key of that sign-in, or get a new token"}
	case errors.Is(err, errEndedSince):
		return EventMachineReplayed, &api.Error{Code: api.CodeTokenUsed, Message: err.Error(), Hint: "get a new token"}
	case errors.Is(err, session.ErrWatermark):
		return EventMachineReplayed, &api.Error{Code: api.CodeTokenUsed, Message: "all sessions of its subject were ended after the token was issued",
			Hint: "get a new token"}
	case errors.Is(err, session.ErrNotFresh):
		return EventMachineReplayed, &api.Error{Code: api.CodeTokenUsed, Message: "the token does not say that its user was authenticated since what they sign in with has changed",
			Hint: "sign in anew at the issuer, and get a new token that has auth_time"}
	case errors.As(err, &failed):
		return EventMachineFailed, refusedSession(failed.err)
	case errors.As(err, &unread): // it was no request
		return EventMachineRefused, unread
	}
	return EventMachineRefused, &api.Error{Code: api.CodeTokenRefused, Message: "the token was refused: " + jose.Printable(err.Error()),
		Hint: "it must be a fresh one, by an issuer and for an audience that the agent's configuration names"}
}
