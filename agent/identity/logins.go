// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Limits on sign-ins under way.
const (
	loginLifetime      = 10 * time.Minute // for passwords, second factors and slow people
	codeLifetime       = time.Minute
	maxLogins          = 4096
	maxLoginsPerSource = 256 // a whole office may be behind one address
	sweepInterval      = 5 * time.Second
)

// NewSession is what a sign-in asks the session table for.
type NewSession struct {
	Identity session.Identity
	Key      session.Key
	Method   string // see session.Session
	SID      string // the provider's own session; see session.Session
	// Authenticated is when what is known of the user was so: the session's time runs from then. Zero: now.
	Authenticated time.Time
	// Begun is when the sign-in began. What has ended all sessions of the user since then refuses this one: a provider may
	// honour a code that it gave before. Zero: when the user was authenticated.
	Begun time.Time
	// Revalidated is set if the provider will be asked about the session again and again: every node may end it then when
	// it has not answered for too long, for the one that asks may be gone.
	Revalidated bool
	// BindAddrs are source addresses to be admitted to plain listeners; see session.Session.
	BindAddrs []netip.Addr
	// Credential is the token that a machine signed in with; zero for people. It makes sessions for one key only.
	Credential session.Credential
	// NotAfter ends the session, if it is not zero, where the configured timeout is later.
	NotAfter time.Time
}

// Sessions is the session table, as far as signing in and out needs it.
type Sessions interface {
	// Create makes a session. An api.Error, session.ErrWatermark, ErrNotFresh, ErrTooMany, ErrKeyInUse or ErrCredentialUsed is told to
	// the user. A live session of the same key and identity is superseded.
	Create(ctx context.Context, s NewSession) (session.Session, error)
	// ByKey returns the newest session of a client key, also when it has ended (Ended is set, or
	// the error is a session.EndedError). It returns session.ErrUnknownKey if there is none.
	ByKey(key session.Key) (session.Session, error)
	// End ends a session; one that is over already stays as it is, and that is no error.
	End(ctx context.Context, id session.ID, end session.End) error
}

// LoginsConfig is what Logins needs. Count may be nil.
type LoginsConfig struct {
	Providers *Providers
	Sessions  Sessions
	Vault     *Vault
	Log       *slog.Logger
	Count     func(event string)
	// Mark begins what this node gives to browsers and clients, for others to tell whose it is: see MarkOf. May be empty.
	Mark string
	// FreshSince says since when a user must have been authenticated, in a session of the provider's; zero: whenever. Nil: always so.
	FreshSince func(who session.Identity, sid string) time.Time
}

// Logins runs the browser sign-ins. It is safe for concurrent use.
//
// Each goes through these stages, forward only, and each step can be taken once:
//
//	begun ----> opened ----> exchanging ----> coded ----> a session
//	  |  Open      | Callback     | provider     | Complete
//	  |            |              | says yes     |
//	  +------------+--------------+--------------+--> gone: expired, refused, replaced by another
//	               |              |                   sign-in of the same key
//	               +<-------------+  once, with other secrets: who signs in must be authenticated anew (see again)
//
// What binds the steps together:
//   - Begin comes from the client, who proves its key in the TLS handshake.
//   - Open binds the browser, by a cookie, so that the callback of another browser is refused.
//   - Callback is bound to Begin by state, PKCE and nonce, and to Open by the cookie.
//   - The one-time code goes only to a loopback address of the browser's machine, and is good
//     only on a connection with the key of Begin. Who starts a sign-in and has somebody else
//     finish it has the key and never sees the code; who steals the code has no key.
type Logins struct {
	cfg LoginsConfig
	now func() time.Time

	signOuts signOuts

	mu      sync.Mutex // guards pending and the logins in it
	pending pending

	devices jose.FailureLimit // each that begins is a request to a provider
}

// NewLogins returns Logins without any sign-in under way.
func NewLogins(cfg LoginsConfig) *Logins {
	cfg.Count = orIgnore(cfg.Count)
	return &Logins{cfg: cfg, now: time.Now, pending: newPending()}
}

// Begin starts a sign-in for a client key, which must have what d demands. A sign-in under way for the same key is dropped.
func (l *Logins) Begin(key session.Key, source netip.Addr, req api.LoginRequest, d *Demand) (api.LoginStarted, error) {
	started, err := l.begin(key, source, req, d)
	if err != nil {
		l.cfg.Count(EventLoginRefused)
		return api.LoginStarted{}, err
	}
	l.cfg.Count(EventLoginStarted)
	return started, nil
}

func (l *Logins) begin(key session.Key, source netip.Addr, req api.LoginRequest, d *Demand) (api.LoginStarted, error) {
	to, err := parseRedirect(req.Redirect, req.State)
	if err != nil {
		return api.LoginStarted{}, &api.Error{Code: api.CodeBadRequest, Message: err.Error()}
	}
	p, err := l.provider(req.Provider)
	if err != nil {
		return api.LoginStarted{}, err
	}
	p.await(discoverPatience)
	start, s := marked(l.cfg.Mark), newSecrets(l.cfg.Mark)
	if _, err := p.authURL(s, d); err != nil {
		return api.LoginStarted{}, unavailable(p)
	}
	lg := &login{
		key: key, source: jose.SourceOf(source), provider: p, demand: d, redirect: to, secrets: s,
		start: digestOf(start), state: digestOf(s.state), expires: l.now().Add(loginLifetime),
	}
	if req.BindAddress {
		lg.bind = []netip.Addr{source.Unmap()}
	}
	if err := l.add(lg); err != nil {
		return api.LoginStarted{}, err
	}
	return api.LoginStarted{URL: p.page(pathStart + start), Provider: p.Name(), ExpiresIn: api.Seconds(loginLifetime)}, nil
}

func (l *Logins) add(lg *login) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweepLocked()
	if old := l.pending.byKey[lg.key]; old != nil {
		l.dropLocked(old)
	}
	if victim, full := l.pending.victim(lg.source); victim != nil {
		l.dropLocked(victim)
	} else if full {
		return errTooManyLogins
	}
	l.pending.add(lg)
	return nil
}

func (l *Logins) provider(name string) (*Provider, error) {
	list := l.cfg.Providers.All()
	if name == "" && len(list) == 1 {
		return list[0], nil
	}
	var names []string
	for _, p := range list {
		if p.Name() == name {
			return p, nil
		}
		names = append(names, p.Name())
	}
	e := &api.Error{Code: api.CodeChooseProvider, Message: fmt.Sprintf("there is no provider %q here", name)}
	switch {
	case len(names) == 0:
		e.Code, e.Message = api.CodeUnavailable, "no OpenID provider is configured at this agent"
	case name == "":
		e.Message = "there are several providers here"
		fallthrough
	default:
		e.Hint = "choose one with --provider: " + strings.Join(names, ", ")
	}
	return nil, e
}

// Open takes the token of a /start link and the secret in the browser's cookie, and returns the
// provider's page to send that browser to. Only the first browser is let through.
func (l *Logins) Open(token, browser string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lg := l.pending.byStart[digestOf(token)]
	switch {
	case lg == nil || l.now().After(lg.expires):
		return "", errLoginGone
	case lg.stage == begun:
		lg.stage, lg.browser, lg.since = opened, digestOf(browser), l.now()
	case lg.stage != opened || !equal(lg.browser, digestOf(browser)):
		l.cfg.Count(EventBrowserRefused)
		return "", errOtherBrowser
	}
	if err := lg.refused(); err != nil {
		return "", err
	}
	to, err := lg.provider.authURL(lg.secrets, lg.demand)
	if err != nil {
		return "", unavailable(lg.provider)
	}
	return to, nil
}

// callback is what the provider sends back through the browser.
type callback struct {
	provider, code, state, iss, err string // of the path, and of the query
	browser                         string // of the cookie
}

// Callback takes the provider's answer and returns where to send the browser next: to the
// client's loopback listener, with a one-time code, or with an error if it is the user's own
// sign-in that went wrong. It returns an error if the callback does not belong to a sign-in of
// this browser.
func (l *Logins) Callback(ctx context.Context, cb callback) (string, error) {
	lg, err := l.claim(cb)
	if err != nil {
		return "", err
	}
	log := l.cfg.Log.With("provider", lg.provider.Name(), "client_key_sha256", lg.key)
	if cb.err != "" || cb.code == "" {
		l.drop(lg)
		l.cfg.Count(EventProviderRefused)
		log.Info("provider refused a sign-in", "error", cb.err)
		return lg.redirect.withError("provider_refused", refusedBecause(cb.err)), nil
	}
	// Not cut short when the browser goes away: there may be tokens in the answer, which are to be revoked.
	signIn, err := lg.provider.exchange(context.WithoutCancel(ctx), cb.code, cb.iss, lg.secrets)
	if err != nil {
		l.drop(lg)
		l.cfg.Vault.discard(lg.provider, signIn.Tokens)
		l.cfg.Count(EventTokenRefused)
		log.Warn("provider's answer refused", "error", err)
		return lg.redirect.withError("token_refused", jose.Printable(err.Error())), nil
	}
	if why := l.stale(&signIn, lg.demand.afresh()); why != "" {
		return l.again(ctx, lg, signIn, why)
	}
	if err := lg.demand.check(signIn.Identity, l.now()); err != nil {
		l.drop(lg)
		l.cfg.Vault.discard(lg.provider, signIn.Tokens)
		l.cfg.Count(EventStepUpRefused)
		log.Warn("sign-in is not what a service asks for", "service", lg.demand.service, "subject", signIn.Identity.Subject, "error", err)
		return lg.redirect.withError("step_up_refused", jose.Printable(err.Error())), nil
	}
	return l.issue(lg, signIn)
}

// claim finds the sign-in that a callback belongs to and makes the callback the only one.
func (l *Logins) claim(cb callback) (*login, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lg := l.pending.byState[digestOf(cb.state)]
	if lg == nil || l.now().After(lg.expires) || cb.provider != "" && cb.provider != lg.provider.Name() {
		l.cfg.Count(EventCallbackUnknown)
		return nil, errLoginGone
	}
	if lg.stage != opened || !equal(lg.browser, digestOf(cb.browser)) {
		l.cfg.Count(EventBrowserRefused)
		return nil, errOtherBrowser
	}
	lg.stage = exchanging
	return lg, nil
}

func (l *Logins) issue(lg *login, signIn SignIn) (string, error) {
	code := marked(l.cfg.Mark)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.pending.has(lg) { // expired or replaced meanwhile
		l.cfg.Vault.discard(lg.provider, signIn.Tokens)
		return "", errLoginGone
	}
	lg.stage, lg.signIn, lg.code = coded, signIn, digestOf(code)
	lg.expires = l.now().Add(codeLifetime)
	l.pending.byCode[lg.code] = lg
	return lg.redirect.withCode(code), nil
}

// Run drops sign-ins that nobody finishes until ctx is done, and then all. It returns nil.
func (l *Logins) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, lg := range l.pending.byKey {
				l.dropLocked(lg)
			}
			return nil
		case <-tick.C:
			l.mu.Lock()
			l.sweepLocked()
			l.mu.Unlock()
			l.signOuts.sweep()
		}
	}
}

func (l *Logins) sweepLocked() {
	now := l.now()
	for _, lg := range l.pending.byKey {
		if now.After(lg.expires) {
			l.cfg.Count(EventLoginExpired)
			l.dropLocked(lg)
		}
	}
}

func (l *Logins) drop(lg *login) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(lg)
}

func (l *Logins) dropLocked(lg *login) {
	if l.pending.has(lg) {
		l.pending.remove(lg)
		l.cfg.Vault.discard(lg.provider, lg.signIn.Tokens)
	}
}

func equal(a, b digest) bool { return subtle.ConstantTimeCompare(a[:], b[:]) == 1 }
