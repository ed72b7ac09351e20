// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Logout ends the session of a client key, and then revokes its tokens at the provider; if that does not confirm, the
// vault goes on trying. With atProvider, the user's browser is to sign out there, too.
func (l *Logins) Logout(ctx context.Context, key session.Key, atProvider bool) (s session.Session, out api.LoggedOut, err error) {
	s, err = l.sessionOf(key)
	if err != nil {
		return session.Session{}, out, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*jose.Timeout)
	defer cancel() // the client may hang up as soon as it has asked; its session ends all the same
	// Taken out first: whoever else is told of the end would revoke them without our knowing.
	g, held := l.cfg.Vault.take(s.ID)
	if s.Ended == nil {
		end := session.End{Reason: session.ReasonLogout, At: l.now()}
		if err := l.cfg.Sessions.End(ctx, s.ID, end); err != nil {
			if held {
				l.cfg.Vault.Put(s.ID, g.provider, g.tokens)
			}
			return session.Session{}, out, fmt.Errorf("end session: %w", err)
		}
		l.cfg.Count(EventLogout)
		l.cfg.Log.Info("signed out", "session", s.ID, "subject", s.Identity.Subject)
		s.Ended = &end
	}
	if held && atProvider {
		out.Provider = l.signOuts.begin(g.provider, g.tokens.IDToken, l.cfg.Mark)
	}
	if held {
		err = l.cfg.Vault.revokeNow(ctx, g) // the vault logs why not
	}
	out.Revoked, out.Irrevocable = err == nil, errors.Is(err, ErrCannotRevoke)
	return s, out, nil
}

// sessionOf returns the session of a client key, live or ended.
func (l *Logins) sessionOf(key session.Key) (session.Session, error) {
	s, err := newestOf(l.cfg.Sessions, key)
	switch {
	case errors.Is(err, session.ErrUnknownKey):
		return s, &api.Error{Code: api.CodeUnknownKey, Message: "no session is known for this client key",
			Hint: "run `curfew login`"}
	case err != nil:
		return s, fmt.Errorf("look up session: %w", err)
	}
	return s, nil
}

// newestOf returns the newest session of a client key, with Ended set if it is over.
func newestOf(sessions Sessions, key session.Key) (session.Session, error) {
	s, err := sessions.ByKey(key)
	var ended *session.EndedError
	if errors.As(err, &ended) {
		s.ID, s.Ended = ended.ID, &ended.End
		return s, nil
	}
	return s, err
}
