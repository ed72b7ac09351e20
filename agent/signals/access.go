// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// Access is how we prove to a transmitter who we are: by a token that it gave, or by tokens of limited life that an
// authorization server gives for a client's credentials (RFC 6749, section 4.4).
type Access struct {
	Token string // a bearer token; excludes the rest

	TokenEndpoint string
	ClientID      string
	ClientSecret  string
	Scope         string // such as "ssf.manage ssf.read"; may be empty
}

func (a *Access) none() bool { return *a == Access{} }

// Validate says what is wrong with a, or returns nil. The zero Access is valid, and proves nothing.
func (a *Access) Validate() error {
	switch {
	case a.none():
		return nil
	case a.Token != "":
		if a.TokenEndpoint != "" || a.ClientID != "" || a.ClientSecret != "" || a.Scope != "" {
			return errors.New("token: excludes the credentials of a client")
		}
		if !bearerToken.MatchString(a.Token) {
			return errors.New("token: has characters that a bearer token cannot have")
		}
		return nil
	case a.ClientID == "" || a.ClientSecret == "":
		return errors.New("client_id, client_secret: missing")
	}
	if err := jose.CheckEndpoint(a.TokenEndpoint); err != nil {
		return fmt.Errorf("token_endpoint: %w", err)
	}
	return nil
}

// Tokens are renewed that long before they expire; one that does not say when it does is used for unknownLife.
const (
	renewBefore = 30 * time.Second
	unknownLife = 5 * time.Minute
)

// accessTokens gives out the tokens of an Access. It is safe for concurrent use.
type accessTokens struct {
	cfg    Access
	client *http.Client
	now    func() time.Time
	turn   chan struct{} // has room for the one who asks the authorization server, for all

	mu      sync.Mutex // guards the fields below
	token   string
	expires time.Time
}

func newAccessTokens(cfg Access, client *http.Client, now func() time.Time) *accessTokens {
	return &accessTokens{cfg: cfg, client: client, now: now, turn: make(chan struct{}, 1)}
}

// authorize adds a token to a request. It returns a function that has to be called if the token was refused: the
// next request then gets another.
func (a *accessTokens) authorize(r *http.Request) (refused func(), err error) {
	token, err := a.get(r.Context())
	if err != nil {
		return nil, fmt.Errorf("access token: %w", err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return func() { a.forget(token) }, nil
}

func (a *accessTokens) get(ctx context.Context) (string, error) {
	if a.cfg.ClientID == "" {
		return a.cfg.Token, nil
	}
	if token, ok := a.current(); ok {
		return token, nil
	}
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if token, ok := a.current(); ok { // somebody else has asked
		return token, nil
	}
	token, life, err := a.fetch(ctx)
	if err != nil {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.token, a.expires = token, a.now().Add(life)
	return token, nil
}

func (a *accessTokens) current() (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.token, a.token != "" && a.now().Before(a.expires)
}

func (a *accessTokens) forget(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.token == token { // else another one has been fetched already
		a.token = ""
	}
}

// fetch asks the authorization server.
func (a *accessTokens) fetch(ctx context.Context) (token string, life time.Duration, err error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if a.cfg.Scope != "" {
		form.Set("scope", a.cfg.Scope)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.cfg.TokenEndpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	r.SetBasicAuth(url.QueryEscape(a.cfg.ClientID), url.QueryEscape(a.cfg.ClientSecret)) // RFC 6749, section 2.3.1
	status, body, _, err := roundTrip(a.client, r)
	if err != nil {
		return "", 0, err
	}
	if status != http.StatusOK {
		return "", 0, fmt.Errorf("%s answered %d", a.cfg.TokenEndpoint, status)
	}
	return readAccessToken(body)
}

// readAccessToken reads the answer of an authorization server (RFC 6749, section 5.1).
func readAccessToken(body []byte) (token string, life time.Duration, err error) {
	c, err := jose.ParseClaims(body)
	if err != nil {
		return "", 0, err
	}
	token, err1 := c.Text("access_token")
	kind, err2 := c.Text("token_type")
	if err := errors.Join(err1, err2); err != nil || !strings.EqualFold(kind, "Bearer") || !bearerToken.MatchString(token) {
		return "", 0, errors.New("the answer has no bearer token")
	}
	return token, lifeOf(c), nil
}

// lifeOf reads expires_in.
func lifeOf(c jose.Claims) time.Duration {
	values, _ := c.Values() // what is not JSON was refused before
	seconds, ok := values["expires_in"].(int64)
	if !ok || seconds <= 0 || seconds > int64(maxMaxAge/time.Second) {
		return unknownLife
	}
	life := time.Duration(seconds) * time.Second
	return max(life/2, life-renewBefore)
}
