// SPDX-License-Identifier: Apache-2.0

package demoidp_test

import (
	"context"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/curfew-proxy/curfew/agent/demoidp"
)

// relyingParty is a client of the provider that keeps what comes back to it.
type relyingParty struct {
	config   oauth2.Config
	verifier *oidc.IDTokenVerifier
	provider *demoidp.Provider
	site     *httptest.Server
	callback chan url.Values
}

func start(t *testing.T) *relyingParty {
	t.Helper()
	rp := &relyingParty{callback: make(chan url.Values, 1)}
	rp.site = httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { rp.callback <- r.URL.Query() }))
	t.Cleanup(rp.site.Close)
	p, err := demoidp.Listen(demoidp.Config{ClientID: "curfew", ClientSecret: "s", RedirectURL: rp.site.URL + "/callback",
		Users: []demoidp.User{{Name: "alice", Full: "Alice A.", Email: "alice@example.com", Groups: []string{"dba"}}, {Name: "bob"}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	found, err := oidc.NewProvider(t.Context(), p.Issuer())
	if err != nil {
		t.Fatal(err)
	}
	rp.provider = p
	rp.verifier = found.Verifier(&oidc.Config{ClientID: "curfew"})
	rp.config = oauth2.Config{ClientID: "curfew", ClientSecret: "s", Endpoint: found.Endpoint(), RedirectURL: rp.site.URL + "/callback",
		Scopes: []string{"openid", "profile", "email", "offline_access"}}
	rp.config.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	return rp
}

// browser returns a client as SignIn wants it.
func (rp *relyingParty) browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, Transport: rp.site.Client().Transport}
}

func TestSignIn(t *testing.T) {
	rp := start(t)
	verifier := oauth2.GenerateVerifier()
	link := rp.config.AuthCodeURL("the-state", oauth2.S256ChallengeOption(verifier), oidc.Nonce("the-nonce"))
	if err := rp.provider.SignIn(t.Context(), rp.browser(t), link, "mallory"); err == nil {
		t.Error("a stranger was let in")
	}
	if err := rp.provider.SignIn(t.Context(), rp.browser(t), link, "alice"); err != nil {
		t.Fatal(err)
	}
	q := <-rp.callback
	if q.Get("state") != "the-state" {
		t.Errorf("callback = %v", q)
	}
	if _, err := rp.config.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption("wrong"+verifier)); err == nil {
		t.Fatal("the wrong PKCE verifier was accepted")
	}
	if err := rp.provider.SignIn(t.Context(), rp.browser(t), link, "alice"); err != nil {
		t.Fatal(err)
	}
	tok, err := rp.config.Exchange(t.Context(), (<-rp.callback).Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := tok.Extra("id_token").(string)
	id, err := rp.verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Name, Email string
		Groups      []string
	}
	if err := id.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	if id.Subject != "alice" || id.Nonce != "the-nonce" || claims.Name != "Alice A." || claims.Email != "alice@example.com" || !slices.Equal(claims.Groups, []string{"dba"}) {
		t.Errorf("ID token: %+v %+v", id, claims)
	}
	refreshAndRevoke(t, rp, tok.RefreshToken)
}

// refreshAndRevoke checks that a refresh token works once, and not when it is revoked.
func refreshAndRevoke(t *testing.T, rp *relyingParty, refresh string) {
	t.Helper()
	use := func(token string) (*oauth2.Token, error) {
		return rp.config.TokenSource(t.Context(), &oauth2.Token{RefreshToken: token}).Token()
	}
	next, err := use(refresh)
	if err != nil || next.RefreshToken == "" || next.RefreshToken == refresh {
		t.Fatalf("refresh: %+v, %v", next, err)
	}
	if _, err := use(refresh); err == nil {
		t.Error("a refresh token works twice")
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, rp.provider.Issuer()+"/revoke",
		strings.NewReader(url.Values{"token": {next.RefreshToken}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("curfew", "s")
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("revoke: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	if _, err := use(next.RefreshToken); err == nil {
		t.Error("a revoked refresh token works")
	}
}
