// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// errRevoked is returned where the provider says that what it gave is good no longer. Every other error is an outage:
// it says nothing about the user.
var errRevoked = errors.New("the provider has ended it")

// refresh asks the provider for new tokens with the refresh token (RFC 6749, section 6), and what it says of the user
// now: in a new ID token, or else at its userinfo endpoint. If it says nothing, who is returned. The tokens
// are to be kept whatever the error: a provider that rotates them takes the old ones no more.
func (p *Provider) refresh(ctx context.Context, held Tokens, who session.Identity) (Tokens, session.Identity, error) {
	m, err := p.ready()
	if err != nil {
		return Tokens{}, who, err
	}
	tok, err := m.oauth.TokenSource(oidc.ClientContext(ctx, m.client), &oauth2.Token{RefreshToken: string(held.Refresh)}).Token()
	if err != nil {
		var answer *oauth2.RetrieveError
		if errors.As(err, &answer) && answer.ErrorCode == "invalid_grant" {
			return Tokens{}, who, errRevoked
		}
		return Tokens{}, who, fmt.Errorf("refresh: %w", withoutBody(err))
	}
	raw, _ := tok.Extra("id_token").(string)
	// The ID token of the sign-in stays: it is what later ones are held against.
	tokens := Tokens{Refresh: []byte(tok.RefreshToken), Access: []byte(tok.AccessToken), IDToken: bytes.Clone(held.IDToken)}
	var c jose.Claims
	switch {
	case raw != "":
		c, err = p.verifyRenewed(ctx, m, raw, tok.AccessToken, held.IDToken)
	case m.userinfo != "":
		c, err = m.userInfo(ctx, tok.AccessToken)
	default:
		return tokens, who, nil
	}
	if err != nil {
		return tokens, who, err
	}
	now, err := m.redescribe(c, who)
	return tokens, now, err
}

// redescribe is what claims say of the user that was known before. How somebody was authenticated stays so where
// nothing is said of it.
func (s *settings) redescribe(c jose.Claims, who session.Identity) (session.Identity, error) {
	now, err := describe(c, s.cfg.Issuer, s.cfg.GroupsClaim)
	if err != nil {
		return who, err
	}
	if now.Subject != who.Subject {
		return who, fmt.Errorf("claim sub is %q, the session is of %q", jose.Printable(now.Subject), who.Subject)
	}
	if now.AuthTime.IsZero() {
		now.AuthTime = who.AuthTime
	}
	if now.ACR == "" {
		now.ACR = who.ACR
	}
	if now.AMR == nil {
		now.AMR = who.AMR
	}
	return now, nil
}

// verifyRenewed checks the ID token of a refresh (OpenID Connect Core 1.0, section 12.2): what it has of nonce and
// auth_time is as in the first.
func (p *Provider) verifyRenewed(ctx context.Context, m *metadata, raw, accessToken string, first []byte) (jose.Claims, error) {
	c, err := p.verifyIDToken(ctx, m, raw, accessToken)
	if err != nil {
		return nil, fmt.Errorf("renewed ID token: %w", err)
	}
	before, err := jose.Unverified(string(first))
	if err != nil {
		return nil, fmt.Errorf("ID token of the sign-in: %w", err)
	}
	for _, name := range []string{"nonce", "auth_time"} {
		now, has := c[name]
		then, had := before[name]
		if has && (had || name == "nonce") && string(now) != string(then) {
			return nil, fmt.Errorf("renewed ID token: claim %s is not that of the sign-in", name)
		}
	}
	return c, nil
}

// userInfo asks the userinfo endpoint (OpenID Connect Core 1.0, section 5.3). Its caller compares the subject.
func (m *metadata) userInfo(ctx context.Context, accessToken string) (jose.Claims, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.userinfo, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+accessToken)
	req.Header.Set("Accept", "application/json")
	resp, err := m.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("userinfo: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("userinfo: %w", err)
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); resp.StatusCode != http.StatusOK || kind != "application/json" {
		return nil, fmt.Errorf("userinfo: the provider answered %s, %q", resp.Status, jose.Printable(kind))
	}
	c, err := jose.ParseClaims(body)
	if err != nil {
		return nil, fmt.Errorf("userinfo: %w", err)
	}
	return c, nil
}
