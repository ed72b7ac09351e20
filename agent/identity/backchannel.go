// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Paths at which a provider ends sessions; its name follows.
const (
	pathBackChannel  = "/backchannel-logout/"
	pathFrontChannel = "/frontchannel-logout/"
)

// retryLogout is when a provider may try again where its keys could not be had, in seconds.
const retryLogout = "10"

// Ender ends sessions that a provider has ended.
type Ender interface {
	// End ends every session that matches, on every node, also those that are being created. It returns how many
	// ended on this node; durable if there is no error.
	End(ctx context.Context, who session.Match, end session.End) (int, error)
}

// providerLogouts takes the word of providers that sessions are over. It is safe for concurrent use.
type providerLogouts struct {
	logins *Logins
	ends   Ender
	limit  jose.FailureLimit
	used   once
}

// backChannel is the endpoint of OpenID Connect Back-Channel Logout 1.0, section 2.5. It answers as section 2.8 says. What a
// provider has signed is heeded whatever else came from its address: many may be behind one.
func (l *providerLogouts) backChannel(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	p := l.logins.cfg.Providers.named(r.PathValue("provider"))
	if p == nil {
		writeLogoutError(w, "there is no such provider here")
		return
	}
	token, err := logoutTokenOf(w, r)
	if err == nil {
		err = l.take(r.Context(), p, token, sourceOf(r).Addr())
	}
	switch {
	case err == nil:
		w.WriteHeader(http.StatusOK)
	case !l.refuse(r, p, err):
		http.Error(w, "too many logout tokens of yours were refused", http.StatusTooManyRequests)
	case errors.Is(err, jose.ErrNoKeys), errors.Is(err, ErrNotReady):
		// Neither invalid nor failed, of which section 2.8 speaks: section 2.5 lets the provider try again where the
		// service was interrupted.
		w.Header().Set("Retry-After", retryLogout)
		http.Error(w, "logout token: it cannot be checked now", http.StatusServiceUnavailable)
	default:
		writeLogoutError(w, "logout token: "+err.Error())
	}
}

func logoutTokenOf(w http.ResponseWriter, r *http.Request) (string, error) {
	r.Body = http.MaxBytesReader(w, r.Body, jose.MaxToken+1024)
	if err := r.ParseForm(); err != nil || len(r.PostForm["logout_token"]) != 1 {
		return "", errors.New("want one in a form")
	}
	return r.PostForm.Get("logout_token"), nil
}

// refuse notes a logout that was refused, and reports whether its sender is to be told why: who has sent many is not.
func (l *providerLogouts) refuse(r *http.Request, p *Provider, err error) (tell bool) {
	l.logins.cfg.Count(EventLogoutRefused)
	from := sourceOf(r).Addr()
	if !l.limit.Admit(from, time.Now()) {
		return false
	}
	if !blameless(err) {
		l.limit.Failed(from, time.Now())
	}
	l.logins.cfg.Log.Warn("logout of a provider refused", "provider", p.Name(), "source", from, "error", err)
	return true
}

// blameless reports whether the provider itself may be refused so.
func blameless(err error) bool {
	return errors.Is(err, jose.ErrNoKeys) || errors.Is(err, ErrNotReady) || errors.Is(err, errNotEnded) || errors.Is(err, errReplayed)
}

var errNotEnded = errors.New("sessions could not all be ended: try again")

// take ends what a logout token says.
func (l *providerLogouts) take(ctx context.Context, p *Provider, raw string, from netip.Addr) error {
	p.await(discoverPatience) // who is told no does not come again
	t, err := p.verifyLogout(ctx, raw, false)
	if errors.Is(err, jose.ErrKeysLater) && l.limit.Admit(from, time.Now()) {
		t, err = l.await(ctx, p, raw, from)
	}
	if err != nil {
		return err
	}
	name := p.Issuer() + "\x00" + t.jti
	if !l.used.admit(name, time.Now()) {
		return errReplayed
	}
	if err := l.end(ctx, p, t.who, "back-channel logout"); err != nil {
		l.used.again(name)
		return err
	}
	l.logins.cfg.Count(EventProviderLogout)
	return nil
}

// await checks a logout token when keys may be fetched again: somebody has sent many with keys that do not exist, just when the
// provider has a new one. It goes on when the provider has no patience and hangs up. While it waits, a token counts as one that
// was refused, so that one source does not take all the room that there is.
func (l *providerLogouts) await(ctx context.Context, p *Provider, raw string, from netip.Addr) (logoutToken, error) {
	l.limit.Failed(from, time.Now())
	t, err := p.verifyLogout(context.WithoutCancel(ctx), raw, true)
	if err == nil {
		l.limit.Forgive(from, time.Now())
	}
	return t, err
}

// end ends the sessions of whom a provider has signed out, and their sign-ins that are under way. Where it names its session
// and that is none of ours, ours may be those of the user of which it never said what they are part of.
func (l *providerLogouts) end(ctx context.Context, p *Provider, who session.Match, how string) error {
	if who.SID == "" || who.Subject == "" {
		_, err := l.endOf(ctx, p, who, how)
		return err
	}
	n, err := l.endOf(ctx, p, session.Match{Issuer: who.Issuer, SID: who.SID}, how)
	if n > 0 || err != nil {
		return err
	}
	_, err = l.endOf(ctx, p, session.Match{Issuer: who.Issuer, Subject: who.Subject, Unnamed: true}, how)
	return err
}

// endOf returns how many sessions and sign-ins it has ended.
func (l *providerLogouts) endOf(ctx context.Context, p *Provider, who session.Match, how string) (int, error) {
	n, err := l.ends.End(context.WithoutCancel(ctx), who, session.End{Reason: session.ReasonProvider, By: p.Issuer(), Message: how, At: time.Now()})
	dropped := l.logins.dropSignedOut(p, who)
	l.logins.cfg.Log.Info("signed out by the provider", "provider", p.Name(), "how", how, "subject", who.Subject, "with_sid", who.SID != "",
		"sessions", n, "sign_ins", dropped, "error", err)
	if err != nil {
		return 0, errors.Join(errNotEnded, err)
	}
	return n + dropped, nil
}

// frontChannel is the endpoint of OpenID Connect Front-Channel Logout 1.0, section 3: an image or frame in a page of the
// provider's, so anybody can ask for it. It needs the sid, which only the provider and we know, and does nothing
// unless it is switched on.
func (l *providerLogouts) frontChannel(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-cache, no-store")
	p, q := l.logins.cfg.Providers.named(r.PathValue("provider")), r.URL.Query()
	if p == nil || !p.config().FrontChannelLogout {
		http.NotFound(w, r)
		return
	}
	if !l.limit.Admit(sourceOf(r).Addr(), time.Now()) { // or sids could be guessed
		l.logins.cfg.Count(EventLogoutRefused)
		http.Error(w, "too many logouts of yours were refused", http.StatusTooManyRequests)
		return
	}
	iss, sid := q["iss"], q["sid"]
	if len(iss) != 1 || len(sid) != 1 || iss[0] != p.Issuer() || sid[0] == "" || len(sid[0]) > maxSID {
		l.refuse(r, p, errors.New("the parameters iss and sid are not those of a session"))
		http.Error(w, "want iss and sid", http.StatusBadRequest)
		return
	}
	if err := l.end(r.Context(), p, session.Match{Issuer: p.Issuer(), SID: sid[0]}, "front-channel logout"); err != nil {
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	l.logins.cfg.Count(EventProviderLogout)
	w.WriteHeader(http.StatusOK)
}

// writeLogoutError answers as RFC 6749, section 5.2 does.
func writeLogoutError(w http.ResponseWriter, description string) {
	writeJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_request", "error_description": jose.Printable(description)})
}

// dropSignedOut drops sign-ins under way of whom their provider has signed out meanwhile, and returns how many.
func (l *Logins) dropSignedOut(p *Provider, who session.Match) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lg := range l.pending.byKey {
		s := session.Session{Identity: lg.signIn.Identity, SID: lg.signIn.SID}
		if lg.stage == coded && lg.provider == p && who.Matches(&s) {
			l.dropLocked(lg)
			n++
		}
	}
	return n
}
