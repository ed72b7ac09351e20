// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/oidc"
	"github.com/curfew-proxy/curfew/test/peers"
)

// TestProviderIsReloaded has a secret that was wrong put right, and the provider taken out, each by a reload: users sign in with
// the one, and are cut by the other, and by nothing else.
func TestProviderIsReloaded(t *testing.T) {
	port, secret := peers.FreePort(t), filepath.Join(t.TempDir(), "secret")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(secret, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong")
	cfg := harness.Config{
		Services: fmt.Sprintf("  - {name: echo, upstream: %q, allow: 'true'}\n", echo(t)),
		Extra:    fmt.Sprintf("providers:\n  - {name: corp, issuer: 'http://127.0.0.1:%d', client_id: curfew, client_secret_file: %s}\n", port, secret),
	}
	agent := harness.Start(t, cfg)
	oidc.Start(t, oidc.Options{Port: port, Users: map[string]oidc.Claims{"alice": {"name": "Alice A."}},
		Clients: []oidc.Client{oidc.WebClient("curfew", "s3cret", "https://"+agent.Gateway+"/callback/corp")}})
	u := &user{agent: agent, home: t.TempDir(), name: "alice"}
	harness.Eventually(t, "the wrong secret to be noticed", func() error {
		if r := u.login(t); r.Code == 0 || !strings.Contains(r.Stderr, "invalid_client") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	write("s3cret")
	harness.Signal(t, agent.EnforcerPID(), syscall.SIGHUP)
	harness.Eventually(t, "a sign-in with the right one", func() error {
		if r := u.login(t); r.Code != 0 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	open, err := u.dialService(t, "echo", "before")
	if err != nil {
		t.Fatal(err)
	}
	write("other")
	harness.Signal(t, agent.EnforcerPID(), syscall.SIGHUP)
	harness.Eventually(t, "the reload", func() error {
		if n := strings.Count(agent.Log(), "configuration reloaded"); n != 2 {
			return fmt.Errorf("%d are logged", n)
		}
		return nil
	})
	if err := exchange(open, "after"); err != nil {
		t.Errorf("a changed secret has cut a connection: %v", err)
	}
	write("s3cret")
	cfg.Extra = ""
	agent.Configure(t, cfg)
	harness.Signal(t, agent.EnforcerPID(), syscall.SIGHUP)
	if n, err := open.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes on a session whose provider was taken out", n)
	}
	if r := u.curfew(t, "status"); r.Code != 4 || !strings.Contains(r.Stderr, "taken out of the configuration") {
		t.Errorf("status: %+v", r)
	}
}
