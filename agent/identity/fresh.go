// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"fmt"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Of a user whose credential has changed, a sign-in makes a session only if the provider says (auth_time) that it has authenticated
// the user since: its single sign-on may be in the hands of a thief. That is not known before the provider has said who signs in.
// So the browser of a sign-in that is not fresh is sent back to it, once, to be asked for everything anew.

// freshPatience is how long the provider has to take back what a sign-in was given that is not fresh.
const freshPatience = 5 * time.Second

// stale says, for people, why the authentication of a user does not count, or returns "" if it does.
//
// The clock of the provider, who says when that was, and of whoever said that the credential has changed may differ: by a minute
// at most (session.AuthLeeway). An authentication of up to a minute after the change may have been before it, then, and counts only
// if the provider was asked, in this very sign-in, for a new one (anew): that came after, by whatever clock. One from before the
// change never counts, by not a second: whoever changes a credential is asked for the old one just before, and the thief of a
// session is among those who do. An honest user with the clocks the wrong way round waits a minute.
func (l *Logins) stale(s *SignIn, anew bool) string {
	if l.cfg.FreshSince == nil {
		return ""
	}
	since := l.cfg.FreshSince(s.Identity, s.SID)
	if since.IsZero() {
		return ""
	}
	at, certain := s.Identity.AuthTime, since
	if !anew {
		certain = since.Add(session.AuthLeeway)
	}
	switch {
	case at.IsZero():
		return "the provider does not say when it authenticated you (auth_time)"
	case at.After(l.now().Add(session.AuthLeeway)):
		return "the provider authenticated you in the future (auth_time): are the clocks right?"
	case at.Before(certain):
		return fmt.Sprintf("the provider authenticated you at %s, and what you sign in with has changed at %s", at.UTC().Format(time.TimeOnly), since.UTC().Format(time.TimeOnly))
	}
	return ""
}

// again sends the browser of a sign-in that is not fresh back to the provider, to authenticate the user anew. All that the provider is
// to answer with is new, and nothing of before is of use any more; key, browser and where the one-time code goes stay the same. The
// second time it sends the client an error.
func (l *Logins) again(ctx context.Context, lg *login, signIn SignIn, why string) (string, error) {
	log := l.cfg.Log.With("provider", lg.provider.Name(), "client_key_sha256", lg.key, "subject", signIn.Identity.Subject)
	if lg.demand.afresh() {
		l.drop(lg)
		l.cfg.Vault.discard(lg.provider, signIn.Tokens)
		l.cfg.Count(EventFreshRefused)
		log.Warn("sign-in is not fresh", "reason", why)
		return lg.redirect.withError("not_fresh", jose.Printable("you have to be authenticated anew: "+why)), nil
	}
	// At once: many providers revoke with the tokens of one sign-in what the next one of the same browser is given.
	taking, cancel := context.WithTimeout(context.WithoutCancel(ctx), freshPatience)
	_ = l.cfg.Vault.revokeNow(taking, grant{provider: lg.provider, tokens: signIn.Tokens}) // logged, and tried again later
	cancel()
	next := lg.anew(newSecrets(l.cfg.Mark), l.now())
	to, err := next.provider.authURL(next.secrets, next.demand)
	if err != nil {
		l.drop(lg)
		return "", unavailable(lg.provider)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.pending.has(lg) { // expired or replaced meanwhile
		return "", errLoginGone
	}
	l.pending.remove(lg)
	l.pending.add(next)
	l.cfg.Count(EventFreshAsked)
	log.Info("sign-in is not fresh: the provider is to authenticate the user anew", "reason", why)
	return to, nil
}

// anew is the same sign-in with the browser at the provider once more, by other secrets.
func (lg *login) anew(s secrets, now time.Time) *login {
	return &login{
		key: lg.key, source: lg.source, bind: lg.bind, provider: lg.provider, demand: lg.demand.withAfresh(), redirect: lg.redirect,
		secrets: s, start: lg.start, state: digestOf(s.state), stage: opened, expires: lg.expires, browser: lg.browser, since: now,
	}
}

// notFresh says to the user that a sign-in made no session. The browser is sent back at the next; nobody can be, with a code.
func notFresh(method, why string, cause error) error {
	e := &api.Error{Code: api.CodeForbidden, Message: "you have to be authenticated anew: " + why, Cause: cause, Hint: "run `curfew login` again, and sign in anew at the provider"}
	if method == session.MethodDevice {
		e.Hint = "run `curfew login` where there is a browser: with a code the provider cannot be asked for that"
	}
	return e
}
