// SPDX-License-Identifier: Apache-2.0

// Package demoidp is an OpenID provider for `curfew demo`: it listens on loopback only, keeps
// everything in memory, and believes whoever tells it a user's name. It must not be reachable
// from anything but a demonstration.
package demoidp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/text/language"
)

// User is somebody who can sign in.
type User struct {
	Name   string // to sign in with, and the subject
	Full   string // display name
	Email  string
	Groups []string
}

// Config is what the provider knows.
type Config struct {
	ClientID, ClientSecret string
	RedirectURL            string
	Users                  []User
}

// Provider is the provider. It is safe for concurrent use.
type Provider struct {
	storage  *storage
	listener net.Listener
	server   *http.Server
}

// Listen opens a free port on loopback. The provider answers once Run is called.
func Listen(cfg Config) (*Provider, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	p := &Provider{listener: l}
	if p.storage, err = newStorage(cfg); err != nil {
		_ = l.Close() // the other error is the one to tell
		return nil, err
	}
	handler, err := p.handler()
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	p.server = &http.Server{Handler: handler, ReadTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	return p, nil
}

// Issuer returns the provider's issuer URL.
func (p *Provider) Issuer() string { return "http://" + p.listener.Addr().String() }

// Run answers until ctx is done, and returns nil then.
func (p *Provider) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.server.Close() })
	defer stop()
	if err := p.server.Serve(p.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("demo provider: %w", err)
	}
	return nil
}

func (p *Provider) handler() (http.Handler, error) {
	config := &op.Config{
		CodeMethodS256:        true,
		GrantTypeRefreshToken: true,
		SupportedUILocales:    []language.Tag{language.English},
		SupportedClaims:       []string{"sub", "name", "email", "groups"},
	}
	_, _ = rand.Read(config.CryptoKey[:]) // never fails: crypto/rand aborts the program instead (Go 1.24)
	provider, err := op.NewProvider(config, p.storage, op.StaticIssuer(p.Issuer()), op.WithAllowInsecure())
	if err != nil {
		return nil, fmt.Errorf("demo provider: %w", err)
	}
	next := op.AuthCallbackURL(provider)
	withIssuer := op.NewIssuerInterceptor(provider.IssuerFromRequest)
	mux := http.NewServeMux()
	mux.Handle("/", provider)
	mux.HandleFunc("GET "+loginPath, p.loginPage)
	mux.HandleFunc("POST "+loginPath, withIssuer.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.login(w, r, next)
	}))
	return http.MaxBytesHandler(mux, 64<<10), nil
}
