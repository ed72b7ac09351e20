// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/time/rate"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// How often discovery is tried.
const (
	discoverFirst = time.Second // doubles after each failure
	discoverMax   = time.Minute
	discoverAgain = time.Hour // once it has worked; a failure then changes nothing
)

// discoverPatience is how long a sign-in waits for the first discovery to work.
const discoverPatience = 2 * time.Second

// ErrNotReady is returned while a provider's discovery document has not been read yet. Only
// sign-ins are refused meanwhile.
var ErrNotReady = errors.New("the provider has not been reached yet")

// errTakenOut is returned where the configuration has the provider no more.
var errTakenOut = errors.New("the provider was taken out of the agent's configuration")

// Provider is one registration at an OpenID provider, seen as its relying party. It is safe for concurrent use.
// It is of use only while Run runs. Its name, issuer and client ID never change; all else may, while it is in use:
//
//	discovering --discover--> ready --Providers.Prepare--> ready, with other settings
//	     ^                      |
//	     +--other certificates--+   and from both: taken out, for good
type Provider struct {
	log  *slog.Logger
	now  func() time.Time
	kick chan struct{} // asks Run to try at once
	pace *rate.Limiter // of discovery
	gone chan struct{} // closed when it was taken out

	settings atomic.Pointer[settings] // never nil; mu is held to replace it, and meta
	meta     atomic.Pointer[metadata] // nil until discovery has worked with those settings

	mu    sync.Mutex
	found chan struct{} // closed when meta is not nil
}

// settings are a provider as it is configured. Immutable.
type settings struct {
	cfg      Config
	client   *http.Client
	replaced chan struct{} // closed when others have taken their place
}

// metadata is what discovery has found out, with the settings that it is used with. Immutable.
type metadata struct {
	*settings
	doc        discovery
	oauth      oauth2.Config
	verifier   *oidc.IDTokenVerifier
	keys       *jose.KeySet
	revocation string // RFC 7009 endpoint, or empty
	userinfo   string // or empty
	endSession string // RP-Initiated Logout 1.0, or empty
	device     string // RFC 8628 device authorization endpoint, or empty
	sendsIss   bool   // RFC 9207: iss must be in the authorization response
}

// SignIn is the outcome of a sign-in at a provider.
type SignIn struct {
	Identity session.Identity
	SID      string    // the provider's own session, if it says so
	At       time.Time // when the provider was asked: what it said was so then
	Tokens   Tokens
}

// NewProvider returns the provider that cfg describes, without contacting it.
func NewProvider(cfg Config, log *slog.Logger) (*Provider, error) {
	s, err := newSettings(cfg)
	if err != nil {
		return nil, err
	}
	p := &Provider{
		log:   log.With("provider", cfg.Name),
		now:   time.Now,
		kick:  make(chan struct{}, 1),
		found: make(chan struct{}),
		gone:  make(chan struct{}),
		pace:  rate.NewLimiter(1, 1),
	}
	p.settings.Store(s)
	return p, nil
}

func newSettings(cfg Config) (*settings, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	roots, err := jose.Roots(cfg.CA)
	if err != nil {
		return nil, err
	}
	return &settings{cfg: cfg.withDefaults(), client: jose.NewHTTPClient(roots), replaced: make(chan struct{})}, nil
}

// config is how the provider is configured now. Nobody may change it.
func (p *Provider) config() *Config { return &p.settings.Load().cfg }

// Name returns the provider's configured name.
func (p *Provider) Name() string { return p.config().Name }

// Issuer returns the provider's issuer URL.
func (p *Provider) Issuer() string { return p.config().Issuer }

// page is the address of one of the agent's pages, at the host of the callback, or browsers would not send
// the cookie there.
func (p *Provider) page(path string) string {
	u, _ := url.Parse(p.config().RedirectURL) // has been validated
	u.Path, u.RawPath = path, ""
	return u.String()
}

// Ready reports whether discovery has worked.
func (p *Provider) Ready() bool { return p.meta.Load() != nil }

// CloseIdle closes connections to the provider that are not in use: their buffers hold what went through last.
func (p *Provider) CloseIdle() { p.settings.Load().client.CloseIdleConnections() }

// Run reads the provider's discovery document, at first until that works and then hourly. It
// returns nil when ctx is done.
func (p *Provider) Run(ctx context.Context) error {
	backoff := discoverFirst
	for {
		if p.pace.Wait(ctx) != nil {
			return nil
		}
		wait := discoverAgain
		if err := p.discover(ctx); err == nil {
			backoff = discoverFirst
		} else if ctx.Err() == nil {
			p.log.Warn("provider discovery does not work", "error", err, "ready", p.Ready(), "retry_in", backoff)
			wait, backoff = backoff, min(2*backoff, discoverMax)
		}
		timer := time.NewTimer(wait - rand.N(wait/4))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-p.kick:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// await gives discovery a moment: an agent that has just started has its first users at once.
func (p *Provider) await(d time.Duration) {
	p.mu.Lock()
	found := p.found
	p.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-found:
	case <-p.gone:
	case <-timer.C:
	}
}

// ready returns the metadata of a provider that is in the configuration; else errTakenOut, or the error of known.
func (p *Provider) ready() (*metadata, error) {
	if p.takenOut() {
		return nil, errTakenOut
	}
	return p.known()
}

// takenOut reports whether the configuration has the provider no more.
func (p *Provider) takenOut() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// known returns the metadata, or asks Run to try again now and returns ErrNotReady.
func (p *Provider) known() (*metadata, error) {
	if m := p.meta.Load(); m != nil {
		return m, nil
	}
	select {
	case p.kick <- struct{}{}:
	default:
	}
	return nil, ErrNotReady
}

// authURL returns where to send the browser, for a sign-in that has what d demands.
func (p *Provider) authURL(s secrets, d *Demand) (string, error) {
	m, err := p.ready()
	if err != nil {
		return "", err
	}
	return m.oauth.AuthCodeURL(s.state, append(d.options(), oidc.Nonce(s.nonce), oauth2.S256ChallengeOption(s.verifier))...), nil
}

// exchange trades the provider's code for tokens and verifies them. iss is the parameter of
// that name in the authorization response (RFC 9207), which keeps a second provider from
// passing off its code as this one's.
func (p *Provider) exchange(ctx context.Context, code, iss string, s secrets) (SignIn, error) {
	m, err := p.ready()
	if err != nil {
		return SignIn{}, err
	}
	if (m.sendsIss || iss != "") && iss != m.cfg.Issuer {
		return SignIn{}, fmt.Errorf("parameter iss is %q, want %q", iss, m.cfg.Issuer)
	}
	asked := time.Now()
	tok, err := m.oauth.Exchange(oidc.ClientContext(ctx, m.client), code, oauth2.VerifierOption(s.verifier))
	if err != nil {
		return SignIn{}, fmt.Errorf("exchange code: %w", withoutBody(err))
	}
	raw, _ := tok.Extra("id_token").(string)
	return p.granted(ctx, m, Tokens{Refresh: []byte(tok.RefreshToken), Access: []byte(tok.AccessToken), IDToken: []byte(raw)}, asked, s.nonce)
}

// granted is the sign-in that tokens stand for, which were asked for at an instant. They are in it with an error, too: they
// are to be revoked.
func (p *Provider) granted(ctx context.Context, m *metadata, tokens Tokens, asked time.Time, nonce string) (SignIn, error) {
	if len(tokens.IDToken) == 0 {
		return SignIn{Tokens: tokens}, errors.New("the provider sent no ID token")
	}
	signIn, err := p.signedIn(ctx, m, string(tokens.IDToken), string(tokens.Access), nonce)
	if err != nil {
		return SignIn{Tokens: tokens}, fmt.Errorf("ID token: %w", err)
	}
	signIn.At, signIn.Tokens = asked, tokens
	return signIn, nil
}

// signedIn is who the ID token of a sign-in speaks of. An empty nonce means that none was asked for.
func (p *Provider) signedIn(ctx context.Context, m *metadata, raw, accessToken, nonce string) (s SignIn, err error) {
	c, err := p.verifyIDToken(ctx, m, raw, accessToken)
	if err == nil {
		err = checkNonce(c, nonce)
	}
	if err != nil {
		return SignIn{}, err
	}
	if s.SID, err = sidOf(c); err != nil {
		return SignIn{}, err
	}
	s.Identity, err = describe(c, m.cfg.Issuer, m.cfg.GroupsClaim)
	return s, err
}

// withoutBody keeps the provider's raw answer, which may hold anything, out of logs and pages.
func withoutBody(err error) error {
	var answer *oauth2.RetrieveError
	if !errors.As(err, &answer) {
		return err
	}
	code := jose.Printable(answer.ErrorCode)
	if code == "" {
		code = "no error code"
	}
	return fmt.Errorf("the provider answered %d: %s", answer.Response.StatusCode, code)
}
