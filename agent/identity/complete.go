// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Complete trades a one-time code for a session. The code is used up by the first who presents
// it, whoever that is.
func (l *Logins) Complete(ctx context.Context, key session.Key, code string) (session.Session, error) {
	lg, err := l.redeem(key, code)
	if err != nil {
		return session.Session{}, err
	}
	return l.create(ctx, lg, session.MethodBrowser)
}

// create makes the session of a sign-in that is over.
func (l *Logins) create(ctx context.Context, lg *login, method string) (session.Session, error) {
	if err := l.check(lg, method); err != nil {
		l.cfg.Vault.discard(lg.provider, lg.signIn.Tokens)
		return session.Session{}, err
	}
	s, err := l.cfg.Sessions.Create(ctx, NewSession{Identity: lg.signIn.Identity, Key: lg.key, Method: method, SID: lg.signIn.SID,
		Revalidated:   len(lg.signIn.Tokens.Refresh) > 0 && lg.provider.config().Revalidation.Every > 0,
		Authenticated: lg.signIn.At, Begun: lg.since, BindAddrs: lg.bind})
	if err != nil {
		l.cfg.Vault.discard(lg.provider, lg.signIn.Tokens)
		return session.Session{}, refusedSession(err)
	}
	l.cfg.Vault.Put(s.ID, lg.provider, lg.signIn.Tokens)
	// It may have ended before its tokens were in the vault, and then nobody else takes them out.
	if now, err := l.cfg.Sessions.ByKey(lg.key); err != nil || now.ID == s.ID && now.Ended != nil {
		l.cfg.Vault.EndLater(s.ID)
	}
	// Whoever ended the sessions of a provider that was taken out may not have seen this one yet.
	if lg.provider.takenOut() {
		return session.Session{}, errors.Join(lg.refused(), l.cfg.Sessions.End(ctx, s.ID, TakenOut()))
	}
	l.cfg.Count(EventLoginCompleted)
	l.cfg.Log.Info("signed in", "session", s.ID, "provider", lg.provider.Name(), "subject", s.Identity.Subject)
	return s, nil
}

// check refuses a sign-in that was good when the provider answered, and is not any more.
func (l *Logins) check(lg *login, method string) error {
	if err := lg.refused(); err != nil {
		return err
	}
	why := l.stale(&lg.signIn, lg.demand.afresh()) // of devices; or a credential has changed meanwhile
	if why == "" {
		return nil
	}
	l.cfg.Count(EventFreshRefused)
	l.cfg.Log.Warn("sign-in is not fresh", "provider", lg.provider.Name(), "client_key_sha256", lg.key, "subject", lg.signIn.Identity.Subject, "reason", why)
	return notFresh(method, why, session.ErrNotFresh)
}

// redeem takes a sign-in out by its one-time code.
func (l *Logins) redeem(key session.Key, code string) (*login, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lg := l.pending.byCode[digestOf(code)]
	if lg == nil {
		l.cfg.Count(EventCodeUnknown)
		return nil, errCodeInvalid
	}
	l.pending.remove(lg)
	if l.now().After(lg.expires) {
		l.cfg.Vault.discard(lg.provider, lg.signIn.Tokens)
		l.cfg.Count(EventLoginExpired)
		return nil, errCodeInvalid
	}
	if !equal(digest(lg.key), digest(key)) {
		l.cfg.Vault.discard(lg.provider, lg.signIn.Tokens)
		l.cfg.Count(EventCodeWrongKey)
		l.cfg.Log.Warn("one-time code presented with another key",
			"client_key_sha256", key, "want", lg.key)
		return nil, errCodeInvalid
	}
	return lg, nil
}
