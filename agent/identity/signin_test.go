// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/demoidp"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/client"
	"github.com/curfew-proxy/curfew/test/oidc"
)

// signIn signs in with the real client and a scripted browser, and returns what the browser
// showed in the end.
func signIn(t *testing.T, a *agent, user string) (api.Session, oidc.Page, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var browsing sync.WaitGroup
	var page oidc.Page
	open := func(url string) error {
		browsing.Go(func() {
			var err error
			page, err = oidc.NewBrowser(user, a.roots).Walk(t.Context(), url, nil)
			if err != nil {
				t.Errorf("browser: %v", err)
			}
			if err != nil || page.URL.Path != "/signed-in" {
				cancel() // or the client would wait for minutes
			}
		})
		return nil
	}
	sess, err := client.Login(ctx, client.LoginConfig{Agent: a.connect(t), OpenBrowser: open, Progress: io.Discard})
	browsing.Wait()
	return sess, page, err
}

func TestSignInAndOut(t *testing.T) {
	a, p := withProvider(t)
	sess, page, err := signIn(t, a, "alice")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(page.Body, "You are signed in") {
		t.Errorf("the browser shows %q", page.Body)
	}
	if code := page.URL.Query().Get("code"); code == "" || strings.Contains(page.Body, code) {
		t.Errorf("the page at %s repeats the code", page.URL.Path)
	}
	id := sess.Identity
	if id.Issuer != p.Issuer || id.Subject != "alice" || id.Name != "Alice A." || id.Email != "alice@example.com" || !slices.Equal(id.Groups, []string{"dba", "staff"}) {
		t.Errorf("identity = %+v", id)
	}
	if sess.State != api.StateLive || sess.Left.Duration() <= 0 || sess.Method != "browser" {
		t.Errorf("session = %+v", sess)
	}
	c := a.connect(t)
	signedIn, err := c.SignedIn()
	if err != nil {
		t.Fatal(err)
	}
	list, err := signedIn.Services(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != "db" {
		t.Errorf("services = %v, %v", list, err)
	}
	status, err := client.Status(t.Context(), c)
	if err != nil || status.ID != sess.ID || status.State != api.StateLive {
		t.Errorf("status = %+v, %v", status, err)
	}
	signOut(t, a, p, c)
}

// signOut checks that signing out leaves nothing that could be used again: no session, no key on
// disk, and no refresh token at the provider.
func signOut(t *testing.T, a *agent, p *oidc.Provider, c *client.Agent) {
	t.Helper()
	refresh := stealRefreshToken(t, a, p)
	out, err := client.Logout(t.Context(), c, false)
	if err != nil {
		t.Fatal(err)
	}
	if !out.Revoked || out.Session.Ended == nil || out.Session.Ended.Reason != session.ReasonLogout {
		t.Errorf("logged out = %+v", out)
	}
	if code, err := p.Refresh(t.Context(), clientID, clientSecret, refresh); code != "invalid_grant" {
		t.Errorf("refresh after logout: %q, %v; want invalid_grant", code, err)
	}
	if _, err := os.Stat(c.Store.Path(client.KeyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("key after logout: %v", err)
	}
	status, err := client.Status(t.Context(), c)
	if err != nil || status.Ended == nil || status.Ended.Reason != session.ReasonLogout {
		t.Errorf("status after logout = %+v, %v; want the reason", status, err)
	}
	var ended *client.EndedError
	if _, err := c.SignedIn(); !errors.As(err, &ended) || ended.Reason != session.ReasonLogout {
		t.Errorf("SignedIn after logout: %v", err)
	}
}

// stealRefreshToken reads the one session's refresh token, and checks that it is good.
func stealRefreshToken(t *testing.T, a *agent, p *oidc.Provider) string {
	t.Helper()
	a.table.mu.Lock()
	var id session.ID
	for _, s := range a.table.byKey {
		id = s.ID
	}
	a.table.mu.Unlock()
	provider, tokens, ok := a.vault.Take(id)
	if !ok || len(tokens.Refresh) == 0 {
		t.Fatal("the vault has no refresh token of the session")
	}
	refresh := string(tokens.Refresh)
	a.vault.Put(id, provider, tokens)
	if active, err := p.Active(t.Context(), clientID, clientSecret, refresh); !active || err != nil {
		t.Fatalf("refresh token before logout: active %v, %v", active, err)
	}
	return refresh
}

func TestUserDeclines(t *testing.T) {
	a, _ := withProvider(t)
	_, page, err := signIn(t, a, "")
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeProviderFailed || !strings.Contains(e.Message, "access_denied") {
		t.Errorf("Login = %v; want the provider's access_denied", err)
	}
	if !strings.Contains(page.Body, "Not signed in") {
		t.Errorf("the browser shows %s %q", page.URL, page.Body)
	}
	if a.table.count() != 0 || a.counted(identity.EventProviderRefused) != 1 {
		t.Errorf("%d sessions, counts %v", a.table.count(), a.counts)
	}
	if _, err := a.connect(t).SignedIn(); err == nil {
		t.Error("a key was stored for a sign-in that did not come about")
	}
}

// TestProviderDownAtStart keeps out an agent that does not start, or never recovers, because its
// provider was down when it did.
func TestProviderDownAtStart(t *testing.T) {
	a := listen(t)
	port := freePort(t)
	a.serve(t, a.config("corp", "http://127.0.0.1:"+port))
	_, err := client.Login(t.Context(), client.LoginConfig{Agent: a.connect(t), Progress: io.Discard})
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeUnavailable || e.Hint == "" {
		t.Fatalf("Login with the provider down: %v; want unavailable, with a hint", err)
	}
	oidc.Start(t, oidc.Options{
		Port:    atoi(t, port),
		Clients: []oidc.Client{oidc.WebClient(clientID, clientSecret, a.callbackURL("corp"))},
		Users:   map[string]oidc.Claims{"bob": {}},
	})
	a.waitReady(t, "corp")
	sess, _, err := signIn(t, a, "bob")
	if err != nil || sess.Identity.Subject != "bob" {
		t.Errorf("after the provider came up: %+v, %v", sess, err)
	}
}

// TestSeveralProviders: each is signed in at by its name, also while another is down.
func TestSeveralProviders(t *testing.T) {
	a := listen(t)
	clients := []oidc.Client{oidc.WebClient(clientID, clientSecret, a.callbackURL("one"), a.callbackURL("two"))}
	one := oidc.Start(t, oidc.Options{Clients: clients, Users: map[string]oidc.Claims{"alice": {}}})
	two := oidc.Start(t, oidc.Options{Clients: clients, Users: map[string]oidc.Claims{"alice": {}}})
	a.serve(t, a.config("one", one.Issuer), a.config("two", two.Issuer), a.config("down", "http://127.0.0.1:"+freePort(t)))
	a.waitReady(t, "one")
	a.waitReady(t, "two")
	c := a.connect(t)
	_, err := client.Login(t.Context(), client.LoginConfig{Agent: c, Progress: io.Discard})
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeChooseProvider || !strings.Contains(e.Hint, "one, two, down") {
		t.Errorf("Login without a provider: %v", err)
	}
	open := func(url string) error {
		go func() { _, _ = oidc.NewBrowser("alice", a.roots).Walk(t.Context(), url, nil) }()
		return nil
	}
	sess, err := client.Login(t.Context(), client.LoginConfig{Agent: c, Provider: "two", OpenBrowser: open, Progress: io.Discard})
	if err != nil || sess.Identity.Issuer != two.Issuer {
		t.Errorf("Login at two: %+v, %v", sess, err)
	}
}

// TestDemoProvider signs in as `curfew demo` does.
func TestDemoProvider(t *testing.T) {
	a := listen(t)
	p, err := demoidp.Listen(demoidp.Config{ClientID: clientID, ClientSecret: clientSecret, RedirectURL: a.callbackURL("demo"),
		Users: []demoidp.User{{Name: "alice", Full: "Alice A.", Groups: []string{"dba"}}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	cfg := a.config("demo", p.Issuer())
	cfg.Scopes = []string{"profile", "email", "offline_access"}
	a.serve(t, cfg)
	a.waitReady(t, "demo")
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.roots}}}
	defer web.CloseIdleConnections()
	done := make(chan error, 1)
	open := func(url string) error {
		go func() { done <- p.SignIn(ctx, web, url, "alice") }()
		return nil
	}
	c := a.connect(t)
	sess, err := client.Login(t.Context(), client.LoginConfig{Agent: c, OpenBrowser: open, Progress: io.Discard})
	if err != nil || sess.Identity.Name != "Alice A." || !sess.Identity.HasGroup("dba") {
		t.Fatalf("Login: %+v, %v", sess, err)
	}
	if err := <-done; err != nil {
		t.Errorf("SignIn: %v", err)
	}
	if out, err := client.Logout(t.Context(), c, false); err != nil || !out.Revoked {
		t.Errorf("Logout: %+v, %v", out, err)
	}
}
