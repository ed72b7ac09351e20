// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/oidc"
	"github.com/curfew-proxy/curfew/test/peers"
)

var loopbackPage = regexp.MustCompile(`^http://127\.0\.0\.1:\d+/signed-in\?`)

// TestSignInInChromium signs in as people do: with a real browser that shows the provider's forms
// and, in the end, a page of ours. `go test -artifacts -outputdir DIR` keeps pictures of it.
func TestSignInInChromium(t *testing.T) {
	port, secret := peers.FreePort(t), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := harness.Start(t, harness.Config{
		Services: fmt.Sprintf("  - {name: echo, upstream: %q, allow: 'true'}\n", echo(t)),
		Extra:    fmt.Sprintf("providers:\n  - {name: corp, issuer: 'http://127.0.0.1:%d', client_id: curfew, client_secret_file: %s}\n", port, secret),
	})
	oidc.Start(t, oidc.Options{Port: port, Users: map[string]oidc.Claims{"alice": {"name": "Alice A."}},
		Clients: []oidc.Client{oidc.WebClient("curfew", "s3cret", "https://"+agent.Gateway+"/callback/corp")}})

	t.Run("a user who signs in", func(t *testing.T) {
		u := &user{agent: agent, home: t.TempDir()}
		u.visit = func(t *testing.T, link string) {
			tab := launchChromium(t, u.spki(t))
			tab.open(t, link)
			tab.write(t, "input[name=login]", "alice")
			tab.write(t, "input[name=password]", "any")
			tab.click(t, "button[type=submit]")
			tab.click(t, "form:not(:has(input[name=login])) button[type=submit]") // the question of consent
			tab.checkLastPage(t, "signed-in", loopbackPage, "You are signed in", "You can close this page and go on in your terminal.")
			tab.open(t, link)
			tab.checkLastPage(t, "used-link", startLink, "Not signed in", "This sign-in is unknown, finished or too old.", "Run curfew login again.")
		}
		if r := u.loginOnceReached(t); r.Code != 0 || !strings.Contains(r.Stdout, "signed in as Alice A.") {
			t.Errorf("login: %+v", r)
		}
		if r := u.curfew(t, "connect", "echo", "--", "true"); r.Code != 0 {
			t.Errorf("connect: %+v", r)
		}
	})
	t.Run("a user who declines", func(t *testing.T) {
		u := &user{agent: agent, home: t.TempDir()}
		u.visit = func(t *testing.T, link string) {
			tab := launchChromium(t, u.spki(t))
			tab.open(t, link)
			tab.click(t, "a[href$='/abort']")
			tab.checkLastPage(t, "declined", loopbackPage, "Not signed in", "The sign-in was declined at the provider", "Run curfew login again")
		}
		if r := u.loginOnceReached(t); r.Code != 1 || !strings.Contains(r.Stderr, "the sign-in was declined at the provider") {
			t.Errorf("login: %+v", r)
		}
	})
}

// loginOnceReached signs in once the agent has reached the provider.
func (u *user) loginOnceReached(t *testing.T) (r harness.Result) {
	t.Helper()
	harness.Eventually(t, "the provider", func() error {
		if r = u.login(t); strings.Contains(r.Stderr, "cannot be reached") {
			return errors.New(r.Stderr)
		}
		return nil
	})
	return r
}

// spki is the public key of the agent's certificate as Chromium takes it, once the certificate
// is what the user believes.
func (u *user) spki(t *testing.T) string {
	t.Helper()
	c, err := tls.Dial("tcp", u.agent.Gateway, &tls.Config{RootCAs: u.roots(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sum := sha256.Sum256(c.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}
