// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/jwt"
	"github.com/curfew-proxy/curfew/test/oidc"
	"github.com/curfew-proxy/curfew/test/peers"
)

// TestFreshSignInTheWholeWay: when a credential has changed, streams are cut, and a browser that the provider's single sign-on lets in
// silently, as it did before, gives no session to anybody who does not enter the password. That holds after a restart of the agent.
func TestFreshSignInTheWholeWay(t *testing.T) {
	key, token, dir, port := jwt.NewKey(t, "k"), strings.Repeat("t0ken-", 8), t.TempDir(), peers.FreePort(t)
	keys := httptest.NewServer(jwt.Serve(key))
	t.Cleanup(keys.Close)
	for name, content := range map[string]string{"secret": "s3cret", "token": token} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	issuer := fmt.Sprintf("http://127.0.0.1:%d", port)
	agent := harness.Start(t, harness.Config{
		Services: fmt.Sprintf("  - {name: echo, upstream: %q, allow: 'true'}\n", echo(t)),
		Extra: fmt.Sprintf("providers:\n  - {name: corp, issuer: '%s', client_id: curfew, client_secret_file: %s/secret}\n"+
			"signals: [{name: idp, issuer: '%[1]s', audience: curfew, jwks_uri: '%[3]s', token_file: %[2]s/token, credential_change: fresh}]\n", issuer, dir, keys.URL),
	})
	oidc.Start(t, oidc.Options{Port: port, Users: map[string]oidc.Claims{"alice": {"name": "Alice A."}},
		Clients: []oidc.Client{oidc.WebClient("curfew", "s3cret", "https://"+agent.Gateway+"/callback/corp")}})

	alice := &user{agent: agent, home: t.TempDir(), name: "alice"}
	harness.Eventually(t, "a sign-in", func() error {
		if r := alice.login(t); r.Code != 0 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	browser := alice.browser // keeps what the provider has given it
	walk := func(t *testing.T, link string, stop func(*url.URL) bool) oidc.Page {
		t.Helper()
		page, err := browser.Walk(t.Context(), link, stop)
		if err != nil {
			t.Errorf("browser: %v", err)
		}
		return page
	}
	thief := &user{agent: agent, home: t.TempDir(), name: "alice", visit: func(t *testing.T, link string) { walk(t, link, nil) }}
	if r := thief.login(t); r.Code != 0 || browser.Passwords != 1 {
		t.Fatalf("the single sign-on does not let anybody in silently, %d passwords: %+v", browser.Passwords, r)
	}
	stream, err := thief.dialService(t, "echo", "before")
	if err != nil {
		t.Fatal(err)
	}
	authenticated := time.Now().Unix()
	harness.Eventually(t, "another second", func() error {
		if time.Now().Unix() > authenticated {
			return nil
		}
		return errors.New("the same")
	})
	event, err := json.Marshal(map[string]any{"iss": issuer, "aud": "curfew", "iat": time.Now().Unix(), "jti": "1", "sub_id": map[string]any{"format": "iss_sub", "iss": issuer, "sub": "alice"},
		"events": map[string]any{"https://schemas.openid.net/secevent/caep/event-type/credential-change": map[string]any{"credential_type": "password", "change_type": "update"}}})
	if err != nil {
		t.Fatal(err)
	}
	push(t, agent, token, key.Sign(t, map[string]any{"alg": "RS256", "kid": "k", "typ": "secevent+jwt"}, string(event)))
	if err := stream.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := stream.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Fatalf("the stream goes on: %d bytes, %v", n, err)
	}
	agent.Stop(t)
	agent.Run(t)

	thief.visit = func(t *testing.T, link string) {
		askedAnew := 0
		page := walk(t, link, func(u *url.URL) bool {
			if q := u.Query(); q.Get("prompt") == "login" && q.Get("max_age") == "0" {
				askedAnew++
			}
			return askedAnew > 0 && strings.HasPrefix(u.Path, "/interaction/")
		})
		if askedAnew != 1 || browser.Passwords != 1 {
			t.Fatalf("sent back %d times, %d passwords, at %s", askedAnew, browser.Passwords, page.URL)
		}
		if r := thief.curfew(t, "status"); r.Code == 0 {
			t.Errorf("there is a session without a password: %+v", r)
		}
		walk(t, page.URL.String(), nil)
	}
	if r := thief.login(t); r.Code != 0 || browser.Passwords != 2 {
		t.Errorf("with the password, entered %d times: %+v", browser.Passwords, r)
	}
	if _, err := thief.dialService(t, "echo", "after"); err != nil {
		t.Error(err)
	}
}

// push pushes a security event to the transmitter idp of an agent, which must take it.
func push(t *testing.T, agent *harness.Agent, token, event string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+agent.Gateway+"/v1/signals/idp", bytes.NewReader([]byte(event)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/secevent+jwt")
	req.Header.Set("Authorization", "Bearer "+token)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // self-made
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("the event is answered with %s", resp.Status)
	}
}
