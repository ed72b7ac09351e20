// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

var (
	errLoginGone = &api.Error{Code: api.CodeLoginInvalid,
		Message: "this sign-in is unknown, finished or too old", Hint: "run `curfew login` again"}
	errOtherBrowser = &api.Error{Code: api.CodeLoginInvalid,
		Message: "this sign-in was begun in another browser, or is used up", Hint: "run `curfew login` again"}
	errCodeInvalid = &api.Error{Code: api.CodeLoginInvalid,
		Message: "the one-time code is wrong, used or too old", Hint: "run `curfew login` again"}
	errTooManyLogins = &api.Error{Code: api.CodeTooMany,
		Message: "too many sign-ins are under way", Hint: "wait a minute and try again"}
)

func unavailable(p *Provider) *api.Error {
	return &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("the provider %s cannot be reached", p.Name()),
		Hint: "try again in a few seconds; the agent's log says why it cannot"}
}

// refused says why a sign-in that is under way cannot go on; nil if it can. A reload may have changed what is possible.
func (l *login) refused() error {
	switch {
	case l.provider.takenOut():
		return &api.Error{Code: api.CodeForbidden, Message: fmt.Sprintf("the provider %s was taken out of this agent's configuration", l.provider.Name()),
			Hint: "run `curfew login` again, with another provider if there is one; or ask the operator"}
	case l.device != nil && !l.provider.config().Device:
		return noDevices(l.provider)
	}
	return nil
}

// refusedSession says to the user why the session table did not take the session.
func refusedSession(err error) error {
	switch {
	case errors.Is(err, session.ErrWatermark):
		return &api.Error{Code: api.CodeForbidden, Message: "all sessions of yours were ended while you signed in", Cause: err, Hint: "run `curfew login` again"}
	case errors.Is(err, session.ErrNotFresh): // what is so new that stale did not know of it
		return notFresh("", "what you sign in with has changed", err)
	case errors.Is(err, session.ErrTooMany):
		return &api.Error{Code: api.CodeTooMany, Message: err.Error(), Cause: err, Hint: "wait until some have ended, or ask the operator"}
	case errors.Is(err, session.ErrKeyInUse), errors.Is(err, session.ErrNotFound): // nothing that it could follow
		return &api.Error{Code: api.CodeForbidden, Message: "this client key has a live session of somebody else", Cause: err,
			Hint: "sign out first, or sign in with a fresh key"}
	}
	return fmt.Errorf("create session: %w", err)
}

// refusedBecause says to the user what a provider's error code means (RFC 6749, section 4.1.2.1).
func refusedBecause(code string) string {
	switch code {
	case "access_denied":
		return "the sign-in was declined at the provider (access_denied)"
	case "":
		return "the provider answered without a code"
	}
	return "the provider answered " + code
}
