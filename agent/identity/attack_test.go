// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/client"
	"github.com/curfew-proxy/curfew/test/oidc"
)

// caller speaks the sign-in API by hand, with a key of its own.
type caller struct {
	t     *testing.T
	agent *agent
	key   *client.Key
	http  *http.Client
}

func newCaller(t *testing.T, a *agent) *caller {
	t.Helper()
	key, err := client.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return &caller{t: t, agent: a, key: key, http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: a.roots, Certificates: []tls.Certificate{key.Certificate()}}}}}
}

// call sends one request and returns the status and the error code, if any.
func (c *caller) call(method, path string, in, out any) (int, string) {
	c.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		c.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, "https://"+c.agent.addr.String()+path, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		var e api.Error
		if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
			c.t.Fatalf("%s %s answered %s without an error: %v", method, path, resp.Status, err)
		}
		return resp.StatusCode, e.Code
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, ""
}

const (
	aRedirect = "http://127.0.0.1:9/signed-in" // nobody listens there: the walks stop before it
	aState    = "state-of-the-client"
)

func (c *caller) begin() api.LoginStarted {
	c.t.Helper()
	var started api.LoginStarted
	if status, code := c.call("POST", api.PathLogin, api.LoginRequest{Redirect: aRedirect, State: aState}, &started); code != "" {
		c.t.Fatalf("login: %d %s", status, code)
	}
	return started
}

func (c *caller) complete(code string) (int, string) {
	var s api.Session
	return c.call("POST", api.PathLoginComplete, api.LoginComplete{Code: code}, &s)
}

func atLoopback(u *url.URL) bool { return u.Host == "127.0.0.1:9" }

// walkToCode signs in as alice and returns what the browser would bring to the client.
func walkToCode(t *testing.T, b *oidc.Browser, start string) url.Values {
	t.Helper()
	page, err := b.Walk(t.Context(), start, atLoopback)
	if err != nil {
		t.Fatal(err)
	}
	if !atLoopback(page.URL) {
		t.Fatalf("the browser ended at %s: %d %s", page.URL, page.Status, page.Body)
	}
	return page.URL.Query()
}

func TestCodeIsBoundToTheKeyAndUsedOnce(t *testing.T) {
	a, _ := withProvider(t)
	t.Run("replay", func(t *testing.T) {
		c := newCaller(t, a)
		q := walkToCode(t, oidc.NewBrowser("alice", a.roots), c.begin().URL)
		if q.Get("state") != aState || len(q.Get("code")) != 43 {
			t.Errorf("loopback query = %v", q)
		}
		if status, code := c.complete(q.Get("code")); status != http.StatusCreated {
			t.Fatalf("complete: %d %s", status, code)
		}
		if status, code := c.complete(q.Get("code")); status != http.StatusForbidden || code != api.CodeLoginInvalid {
			t.Errorf("replay: %d %s", status, code)
		}
	})
	t.Run("another key", func(t *testing.T) {
		c, thief := newCaller(t, a), newCaller(t, a)
		sessions, revoked := a.table.count(), a.counted(identity.EventRevoked)
		code := walkToCode(t, oidc.NewBrowser("alice", a.roots), c.begin().URL).Get("code")
		if status, e := thief.complete(code); status != http.StatusForbidden || e != api.CodeLoginInvalid {
			t.Errorf("the thief: %d %s", status, e)
		}
		if status, e := c.complete(code); status != http.StatusForbidden || e != api.CodeLoginInvalid {
			t.Errorf("the owner after the thief: %d %s; want the code burnt", status, e)
		}
		if a.table.count() != sessions {
			t.Error("a session was made")
		}
		eventually(t, "the tokens are revoked", func() bool { return a.counted(identity.EventRevoked) > revoked })
	})
}

// TestLinkSentToVictim is the attack that the flow is built against: the attacker starts a
// sign-in with a key of his own and has the victim finish it. The victim's browser takes the
// code to the victim's own machine, and the attacker is left with a key that opens nothing.
func TestLinkSentToVictim(t *testing.T) {
	a, _ := withProvider(t)
	attacker := newCaller(t, a)
	started := attacker.begin()

	victim := walkToCode(t, oidc.NewBrowser("alice", a.roots), started.URL)
	if victim.Get("code") == "" {
		t.Fatalf("the victim's sign-in did not come about: %v", victim)
	}
	// Nothing that the attacker can ask the agent gives him the code or a session.
	var s api.Session
	if status, code := attacker.call("GET", api.PathSession, nil, &s); code != api.CodeUnknownKey {
		t.Errorf("the attacker's session: %d %s %+v", status, code, s)
	}
	if status, code := attacker.complete(strings.Repeat("A", 43)); code != api.CodeLoginInvalid {
		t.Errorf("the attacker guesses: %d %s", status, code)
	}
	if page, err := oidc.NewBrowser("mallory", a.roots).Walk(t.Context(), started.URL, atLoopback); err != nil || page.Status != http.StatusForbidden {
		t.Errorf("the attacker opens the link after the victim: %d, %v", page.Status, err)
	}
	if a.table.count() != 0 {
		t.Error("a session was made")
	}
}

// TestCodeCannotBeSentElsewhere keeps the attack above from working with a redirect of the
// attacker's choice.
func TestCodeCannotBeSentElsewhere(t *testing.T) {
	a, _ := withProvider(t)
	c := newCaller(t, a)
	for _, redirect := range []string{
		"", "https://127.0.0.1:9/x", "http://evil.example:9/x", "http://localhost:9/x", "http://127.0.0.1/x",
		"http://127.0.0.1:9@evil.example/x", "http://127.0.0.1:9.evil.example/x", "http://127.0.0.2:9/x",
		"http://[::ffff:127.0.0.1]:9/x", "http://[::1%25lo]:9/x", "http://0.0.0.0:9/x", "http://2130706433:9/x",
		"http://127.0.0.1:0/x", "http://127.0.0.1:99999/x", "http://127.0.0.1:9/x?to=evil", "http://127.0.0.1:9/x#evil",
		"http://127.0.0.1:9/x?", "http://127.0.0.1:9/../x", "http://127.0.0.1:9/x%0d%0aSet-Cookie:y", "//127.0.0.1:9/x",
		"http://127.0.0.1:9\\@evil.example/x", " http://127.0.0.1:9/x", "javascript:alert(1)",
	} {
		var s api.LoginStarted
		if status, code := c.call("POST", api.PathLogin, api.LoginRequest{Redirect: redirect, State: aState}, &s); code != api.CodeBadRequest {
			t.Errorf("redirect %q: %d %s", redirect, status, code)
		}
	}
}

// TestCallbackInAnotherBrowser is the other half: the attacker opens the link himself and sends
// the victim on from the provider's page; or he sends the victim the provider's answer to a
// sign-in of his own, so that the victim would work under his name.
func TestCallbackInAnotherBrowser(t *testing.T) {
	a, _ := withProvider(t)
	isCallback := func(u *url.URL) bool { return strings.HasPrefix(u.Path, "/callback") }
	attacker := newCaller(t, a)
	page, err := oidc.NewBrowser("mallory", a.roots).Walk(t.Context(), attacker.begin().URL,
		func(u *url.URL) bool { return strings.HasPrefix(u.Path, "/auth") })
	if err != nil {
		t.Fatal(err)
	}
	end, err := oidc.NewBrowser("alice", a.roots).Walk(t.Context(), page.URL.String(), atLoopback)
	if err != nil || end.Status != http.StatusForbidden || !strings.Contains(end.Body, "another browser") || !isCallback(end.URL) {
		t.Errorf("the victim ends at %s: %d %q, %v", end.URL, end.Status, end.Body, err)
	}
	own, err := oidc.NewBrowser("mallory", a.roots).Walk(t.Context(), newCaller(t, a).begin().URL, isCallback)
	if err != nil {
		t.Fatal(err)
	}
	end, err = oidc.NewBrowser("alice", a.roots).Walk(t.Context(), own.URL.String(), atLoopback)
	if err != nil || end.Status != http.StatusForbidden || !isCallback(end.URL) {
		t.Errorf("with the attacker's answer the victim ends at %s: %d, %v", end.URL, end.Status, err)
	}
	if a.counted(identity.EventBrowserRefused) != 2 || a.table.count() != 0 {
		t.Errorf("counts %v, %d sessions", a.counts, a.table.count())
	}
}

// TestCodeOfAnotherSignIn puts the provider's code of a victim's sign-in, as a log or a proxy may show it, into the attacker's
// own: the provider holds it against the challenge that it was given out for (RFC 7636; RFC 9700, section 4.5).
func TestCodeOfAnotherSignIn(t *testing.T) {
	a, _ := withProvider(t)
	isCallback := func(u *url.URL) bool { return strings.HasPrefix(u.Path, "/callback") }
	stolen, err := oidc.NewBrowser("alice", a.roots).Walk(t.Context(), newCaller(t, a).begin().URL, isCallback)
	if err != nil {
		t.Fatal(err)
	}
	b := oidc.NewBrowser("mallory", a.roots)
	own, err := b.Walk(t.Context(), newCaller(t, a).begin().URL, isCallback)
	if err != nil {
		t.Fatal(err)
	}
	q := own.URL.Query()
	q.Set("code", stolen.URL.Query().Get("code"))
	own.URL.RawQuery = q.Encode()
	if q := walkToCode(t, b, own.URL.String()); q.Get("code") != "" || !strings.Contains(q.Get("error_description"), "invalid_grant") {
		t.Errorf("loopback query = %v", q)
	}
	if a.counted(identity.EventTokenRefused) != 1 || a.table.count() != 0 {
		t.Errorf("counts %v, %d sessions", a.counts, a.table.count())
	}
}

func TestStateMismatch(t *testing.T) {
	a, _ := withProvider(t)
	c, b := newCaller(t, a), oidc.NewBrowser("alice", a.roots)
	page, err := b.Walk(t.Context(), c.begin().URL, func(u *url.URL) bool { return strings.HasPrefix(u.Path, "/callback") })
	if err != nil {
		t.Fatal(err)
	}
	right := page.URL.String()
	for name, change := range map[string]func(url.Values){
		"other state": func(q url.Values) { q.Set("state", strings.Repeat("x", 43)) },
		"no state":    func(q url.Values) { q.Del("state") },
		"two states":  func(q url.Values) { q.Add("state", "x") },
	} {
		u := *page.URL
		q := u.Query()
		change(q)
		u.RawQuery = q.Encode()
		end, err := b.Walk(t.Context(), u.String(), atLoopback)
		if err != nil || end.Status != http.StatusForbidden || !strings.Contains(end.Body, "curfew login") {
			t.Errorf("%s: %d %q, %v", name, end.Status, end.Body, err)
		}
	}
	if q := walkToCode(t, b, right); q.Get("code") == "" {
		t.Errorf("the right callback after wrong ones: %v", q)
	}
	if end, err := b.Walk(t.Context(), right, atLoopback); err != nil || end.Status != http.StatusForbidden {
		t.Errorf("the callback a second time: %d, %v", end.Status, err)
	}
}

// TestIssuerMixUp keeps one provider's answer from passing for another's (RFC 9207).
func TestIssuerMixUp(t *testing.T) {
	a, _ := withProvider(t)
	c, b := newCaller(t, a), oidc.NewBrowser("alice", a.roots)
	page, err := b.Walk(t.Context(), c.begin().URL, func(u *url.URL) bool { return strings.HasPrefix(u.Path, "/callback") })
	if err != nil {
		t.Fatal(err)
	}
	q := page.URL.Query()
	q.Set("iss", "https://evil.example")
	page.URL.RawQuery = q.Encode()
	if q := walkToCode(t, b, page.URL.String()); q.Get("error") != "token_refused" || q.Get("code") != "" {
		t.Errorf("loopback query = %v", q)
	}
}

func TestExpiry(t *testing.T) {
	a, _ := withProvider(t)
	var ahead atomic.Int64
	a.logins.SetNow(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	c := newCaller(t, a)

	code := walkToCode(t, oidc.NewBrowser("alice", a.roots), c.begin().URL).Get("code")
	ahead.Store(int64(identity.CodeLifetime + time.Second))
	if status, e := c.complete(code); e != api.CodeLoginInvalid {
		t.Errorf("an old code: %d %s", status, e)
	}
	eventually(t, "the tokens are revoked", func() bool { return a.counted(identity.EventRevoked) == 1 })

	started := c.begin()
	ahead.Add(int64(identity.LoginLifetime + time.Second))
	page, err := oidc.NewBrowser("alice", a.roots).Walk(t.Context(), started.URL, atLoopback)
	if err != nil || page.Status != http.StatusForbidden {
		t.Errorf("an old link: %d, %v", page.Status, err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
