// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/test/oidc"
)

// What a thief may get hold of, and that it is worth nothing without the client key. Elsewhere: a one-time code,
// TestCodeIsBoundToTheKeyAndUsedOnce; a sign-in that the thief began and the victim finished, TestLinkSentToVictim; a machine's
// token, TestMachineTokenReplayed; tokens at other endpoints, TestTokensElsewhere; the disk, TestTokensInABackup.

// signedIn is a caller with a session of alice's.
func signedIn(t *testing.T, a *agent) (*caller, api.Session) {
	t.Helper()
	c := newCaller(t, a)
	code := walkToCode(t, oidc.NewBrowser("alice", a.roots), c.begin().URL).Get("code")
	var s api.Session
	if status, e := c.call("POST", api.PathLoginComplete, api.LoginComplete{Code: code}, &s); status != http.StatusCreated {
		t.Fatalf("complete: %d %s", status, e)
	}
	return c, s
}

// with returns a caller that presents another certificate.
func (c *caller) with(cert tls.Certificate) *caller {
	other := *c
	other.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: c.agent.roots, Certificates: []tls.Certificate{cert}}}}
	return &other
}

// TestCertificateWithoutItsKey: a certificate is public, and proves nothing.
func TestCertificateWithoutItsKey(t *testing.T) {
	a, _ := withProvider(t)
	victim, made := signedIn(t, a)
	thief := newCaller(t, a)
	stolen, own := victim.key.Certificate(), thief.key.Certificate()

	stolen.PrivateKey = own.PrivateKey
	for _, path := range []string{api.PathSession, api.PathServices} {
		resp, err := thief.with(stolen).http.Get("https://" + a.addr.String() + path)
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s with the certificate alone: %s", path, resp.Status)
		} else if !strings.Contains(err.Error(), "remote error: tls") { // it is the agent that says so
			t.Errorf("%s with the certificate alone: %v", path, err)
		}
	}

	leaf, err := x509.ParseCertificate(stolen.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	leaf.PublicKey = nil // or CreateCertificate would mind that it is another's
	own.Certificate[0], err = x509.CreateCertificate(rand.Reader, leaf, leaf, own.PrivateKey.(crypto.Signer).Public(), own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	own.Leaf = nil
	var s api.Session
	if status, code := thief.with(own).call("GET", api.PathSession, nil, &s); code != api.CodeUnknownKey {
		t.Errorf("a copy of the certificate with another key: %d %s", status, code)
	}
	if status, code := victim.call("GET", api.PathSession, nil, &s); code != "" || s.ID != made.ID {
		t.Errorf("the owner: %d %s", status, code)
	}
}

// TestProviderTokensAtTheAPI: what the provider gave for a session opens nothing here, however it is presented.
func TestProviderTokensAtTheAPI(t *testing.T) {
	a, _ := withProvider(t)
	_, made := signedIn(t, a)
	provider, tokens, ok := a.vault.Take(made.ID)
	if !ok || len(tokens.Access) == 0 || len(tokens.IDToken) == 0 {
		t.Fatal("the vault has no tokens of the session")
	}
	stolen := map[string]string{"access token": string(tokens.Access), "ID token": string(tokens.IDToken), "refresh token": string(tokens.Refresh),
		"id of the session": made.ID.String()}
	a.vault.Put(made.ID, provider, tokens)
	for name, token := range stolen {
		if token == "" {
			t.Fatalf("there is no %s", name)
		}
		thief := newCaller(t, a)
		if status, code := thief.complete(token); status != http.StatusForbidden || code != api.CodeLoginInvalid {
			t.Errorf("%s as a one-time code: %d %s", name, status, code)
		}
		if status, code := thief.call("POST", api.PathLoginToken, api.LoginToken{Token: token}, nil); status < 400 {
			t.Errorf("%s as a machine's: %d %s", name, status, code)
		}
		for _, path := range []string{api.PathSession, api.PathServices} {
			for how, header := range map[string][]string{"bearer": {"Authorization", "Bearer " + token}, "DPoP": {"Authorization", "DPoP " + token},
				"cookie": {"Cookie", "__Host-curfew-browser=" + token + "; session=" + token}} {
				if resp, body := ask(t, a, false, "GET", path, "", "", header...); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(body, api.CodeNoCertificate) {
					t.Errorf("%s as %s at %s: %s %s", name, how, path, resp.Status, body)
				}
				if resp, body := ask(t, a, true, "GET", path, "", "", header...); resp.StatusCode != http.StatusNotFound || !strings.Contains(body, api.CodeUnknownKey) {
					t.Errorf("%s as %s at %s with a key of the thief's: %s %s", name, how, path, resp.Status, body)
				}
			}
		}
	}
	if a.table.count() != 1 {
		t.Errorf("%d sessions", a.table.count())
	}
}
