// SPDX-License-Identifier: Apache-2.0

//go:build unix

package oidc

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestProvider checks the provider itself, so that the tests that lean on it can be believed.
func TestProvider(t *testing.T) {
	logouts := make(chan string, 4)
	rp := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { logouts <- r.PostFormValue("logout_token") }))
	t.Cleanup(rp.Close)
	c := WebClient("us", "s", rp.URL+"/callback")
	c["backchannel_logout_uri"], c["backchannel_logout_session_required"] = rp.URL+"/logout", true
	p := Start(t, Options{Clients: []Client{c}, Users: map[string]Claims{"alice": {"groups": []string{"dba"}}}})
	b := NewBrowser("alice", nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	refresh := signIn(ctx, t, p, b, rp.URL+"/callback")
	if active, err := p.Active(ctx, "us", "s", refresh); !active || err != nil {
		t.Errorf("a fresh refresh token is active: %v, %v", active, err)
	}
	if err := p.Revoke(ctx, "us", "s", refresh); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Refresh(ctx, "us", "s", refresh); code != "invalid_grant" || err != nil {
		t.Errorf("refresh with a revoked token: %q, %v", code, err)
	}

	signIn(ctx, t, p, b, rp.URL+"/callback")
	if err := b.SignOut(ctx, p); err != nil {
		t.Fatal(err)
	}
	select {
	case tok := <-logouts: // its guard against request forgery must let it reach loopback
		if strings.Count(tok, ".") != 2 {
			t.Errorf("logout token %q", tok)
		}
	case <-ctx.Done():
		t.Error("no logout message came through the back channel")
	}
}

// signIn walks through a code flow and returns the refresh token.
func signIn(ctx context.Context, t *testing.T, p *Provider, b *Browser, redirect string) string {
	t.Helper()
	verifier := strings.Repeat("v", 43)
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{"client_id": {"us"}, "response_type": {"code"}, "scope": {"openid"}, "redirect_uri": {redirect},
		"state": {"x"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}}
	page, err := b.Walk(ctx, p.Issuer+"/auth?"+q.Encode(), func(u *url.URL) bool { return u.Path == "/callback" })
	if err != nil || page.URL.Query().Get("code") == "" {
		t.Fatalf("the walk ended at %v: %d %s, %v", page.URL, page.Status, page.Body, err)
	}
	form := url.Values{"grant_type": {"authorization_code"}, "code": {page.URL.Query().Get("code")}, "redirect_uri": {redirect}, "code_verifier": {verifier}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.Issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("us", "s")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var tokens struct {
		Refresh string `json:"refresh_token"`
		Error   string `json:"error_description"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&tokens); err != nil || tokens.Refresh == "" {
		t.Fatalf("no refresh token: %s, %v", tokens.Error, err)
	}
	return tokens.Refresh
}
