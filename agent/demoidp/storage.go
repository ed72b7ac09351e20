// SPDX-License-Identifier: Apache-2.0

package demoidp

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Lifetimes of what the provider issues.
const (
	requestLifetime = 10 * time.Minute
	accessLifetime  = 5 * time.Minute
	refreshLifetime = 12 * time.Hour
)

var (
	errNotFound = errors.New("not found")
	errNoUser   = errors.New("no such user")
)

// storage is op.Storage in memory. It is safe for concurrent use.
type storage struct {
	cfg Config
	key signingKey

	mu       sync.Mutex              // guards the fields below
	requests map[string]*authRequest // by ID
	codes    map[string]string       // code to ID of the request
	access   map[string]*grant       // by token ID
	refresh  map[string]*grant       // by token
}

// grant is what a user has granted to the client: an access token and perhaps a refresh token.
type grant struct {
	op.TokenRequest
	authTime time.Time
	amr      []string
	access   string
	refresh  string
	expires  time.Time // of the refresh token
}

func newStorage(cfg Config) (*storage, error) {
	if len(cfg.Users) == 0 {
		return nil, errors.New("demo provider: no users")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("demo provider: make signing key: %w", err)
	}
	return &storage{
		cfg: cfg, key: signingKey{id: rand.Text(), private: key},
		requests: map[string]*authRequest{}, codes: map[string]string{},
		access: map[string]*grant{}, refresh: map[string]*grant{},
	}, nil
}

func (s *storage) users() []string {
	var names []string
	for _, u := range s.cfg.Users {
		names = append(names, u.Name)
	}
	return names
}

func (s *storage) user(name string) (User, error) {
	for _, u := range s.cfg.Users {
		if u.Name == name {
			return u, nil
		}
	}
	return User{}, errNoUser
}

// signIn marks a request as granted by a user.
func (s *storage) signIn(id, name string) error {
	if _, err := s.user(name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.requests[id]
	if !ok {
		return errNotFound
	}
	granted := *r // op may hold the old one
	granted.subject, granted.authTime = name, time.Now()
	s.requests[id] = &granted
	return nil
}

// CreateAuthRequest implements op.AuthStorage.
func (s *storage) CreateAuthRequest(_ context.Context, r *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	if len(r.Prompt) == 1 && r.Prompt[0] == oidc.PromptNone {
		return nil, oidc.ErrLoginRequired()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, old := range s.requests {
		if time.Since(old.created) > requestLifetime {
			s.forgetLocked(id)
		}
	}
	ar := &authRequest{AuthRequest: r, id: rand.Text(), created: time.Now()}
	s.requests[ar.id] = ar
	return ar, nil
}

// AuthRequestByID implements op.AuthStorage.
func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.requests[id]; ok {
		return r, nil
	}
	return nil, errNotFound
}

// AuthRequestByCode implements op.AuthStorage. A code is good once.
func (s *storage) AuthRequestByCode(_ context.Context, code string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.requests[s.codes[code]]
	if !ok {
		return nil, errNotFound
	}
	delete(s.codes, code)
	return r, nil
}

// SaveAuthCode implements op.AuthStorage.
func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code] = id
	return nil
}

// DeleteAuthRequest implements op.AuthStorage.
func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(id)
	return nil
}

func (s *storage) forgetLocked(id string) {
	delete(s.requests, id)
	for code, of := range s.codes {
		if of == id {
			delete(s.codes, code)
		}
	}
}

// CreateAccessToken implements op.AuthStorage.
func (s *storage) CreateAccessToken(_ context.Context, r op.TokenRequest) (string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := &grant{TokenRequest: r, access: rand.Text()}
	s.access[g.access] = g
	return g.access, time.Now().Add(accessLifetime), nil
}

// CreateAccessAndRefreshTokens implements op.AuthStorage. A refresh token is good once.
func (s *storage) CreateAccessAndRefreshTokens(_ context.Context, r op.TokenRequest, old string) (string, string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := &grant{TokenRequest: r, access: rand.Text(), refresh: rand.Text(), expires: time.Now().Add(refreshLifetime)}
	if from, ok := r.(interface {
		GetAuthTime() time.Time
		GetAMR() []string
	}); ok {
		g.authTime, g.amr = from.GetAuthTime(), from.GetAMR()
	}
	if old != "" {
		before, ok := s.refresh[old]
		if !ok {
			return "", "", time.Time{}, op.ErrInvalidRefreshToken
		}
		s.revokeLocked(before)
	}
	s.access[g.access], s.refresh[g.refresh] = g, g
	return g.access, g.refresh, time.Now().Add(accessLifetime), nil
}

// TokenRequestByRefreshToken implements op.AuthStorage.
func (s *storage) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.refresh[token]
	if !ok || time.Now().After(g.expires) {
		return nil, op.ErrInvalidRefreshToken
	}
	return &refreshRequest{grant: g, clientID: s.cfg.ClientID, scopes: g.GetScopes()}, nil
}

// TerminateSession implements op.AuthStorage.
func (s *storage) TerminateSession(_ context.Context, user, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.access {
		if g.GetSubject() == user {
			s.revokeLocked(g)
		}
	}
	return nil
}

// RevokeToken implements op.AuthStorage. Either token takes the other along.
func (s *storage) RevokeToken(_ context.Context, token, _, _ string) *oidc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, by := range []map[string]*grant{s.access, s.refresh} {
		if g, ok := by[token]; ok {
			s.revokeLocked(g)
		}
	}
	return nil // also for tokens that are not known: RFC 7009, section 2.2
}

func (s *storage) revokeLocked(g *grant) {
	delete(s.access, g.access)
	delete(s.refresh, g.refresh)
}

// GetRefreshTokenInfo implements op.AuthStorage.
func (s *storage) GetRefreshTokenInfo(_ context.Context, _, token string) (user, id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g, ok := s.refresh[token]; ok {
		return g.GetSubject(), token, nil
	}
	return "", "", op.ErrInvalidRefreshToken
}

// AuthorizeClientIDSecret implements op.OPStorage.
func (s *storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	if id != s.cfg.ClientID || subtle.ConstantTimeCompare([]byte(secret), []byte(s.cfg.ClientSecret)) != 1 {
		return errors.New("unknown client or wrong secret")
	}
	return nil
}

// GetClientByClientID implements op.OPStorage.
func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if id != s.cfg.ClientID {
		return nil, errNotFound
	}
	return relyingParty{s.cfg}, nil
}

// Health implements op.Storage.
func (s *storage) Health(context.Context) error { return nil }

// SigningKey implements op.AuthStorage.
func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return s.key, nil }

// SignatureAlgorithms implements op.AuthStorage.
func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.ES256}, nil
}

// KeySet implements op.AuthStorage.
func (s *storage) KeySet(context.Context) ([]op.Key, error) { return []op.Key{publicKey{s.key}}, nil }
