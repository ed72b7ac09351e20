// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/curfew-proxy/curfew/client"
	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/oidc"
	"github.com/curfew-proxy/curfew/test/peers"
)

// TestStepUpTheWholeWay: a service refuses whoever the provider does not vouch for as freshly authenticated, says what to do
// about it, and lets in who does it, under whose new session the connections of the old go on.
func TestStepUpTheWholeWay(t *testing.T) {
	port, secret := peers.FreePort(t), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	upstream := echo(t)
	cfg := harness.Config{
		Services: fmt.Sprintf("  - {name: echo, upstream: %q, allow: 'true'}\n  - {name: vault, upstream: %[1]q, allow: 'true', require: {max_age: 15m}}\n", upstream),
		Extra:    fmt.Sprintf("providers:\n  - {name: corp, issuer: 'http://127.0.0.1:%d', client_id: curfew, client_secret_file: %s, device: true}\n", port, secret),
	}
	agent := harness.Start(t, cfg)
	oidc.Start(t, oidc.Options{Port: port, Users: map[string]oidc.Claims{"alice": {"name": "Alice A."}},
		Clients: []oidc.Client{oidc.WebClient("curfew", "s3cret", "https://"+agent.Gateway+"/callback/corp").WithDevice()}})
	u := &user{agent: agent, home: t.TempDir(), name: "alice"}
	harness.Eventually(t, "a sign-in", func() error {
		if r := u.login(t); r.Code != 0 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	if r := u.curfew(t, "status"); r.Code != 0 || !strings.Contains(r.Stdout, "services: echo, vault (after curfew login --service vault)") {
		t.Errorf("status: %+v", r)
	}
	if r := u.curfew(t, "connect", "vault", "--", "true"); r.Code != 1 || !strings.Contains(r.Stderr, "hint: run `curfew login --service vault`") {
		t.Errorf("connect: %+v", r)
	}
	// A client that does not ask first is refused by the gateway.
	if _, err := u.dialService(t, "vault", "ping"); err == nil {
		t.Error("a connection without the step is let in")
	}
	logged(t, agent, "step-up-required")
	open, err := u.dialService(t, "echo", "before")
	if err != nil {
		t.Fatal(err)
	}
	if r := u.login(t, "--service", "vault"); r.Code != 0 || !strings.Contains(r.Stderr, "vault asks for another sign-in") {
		t.Fatalf("login for the service: %+v", r)
	}
	if err := exchange(open, "after"); err != nil {
		t.Errorf("the connection of the session before: %v", err)
	}
	vault, err := u.dialService(t, "vault", "ping")
	if err != nil {
		t.Errorf("a connection after the step: %v", err)
	}
	if r := u.curfew(t, "status"); r.Code != 0 || !strings.Contains(r.Stdout, "services: echo, vault\n") {
		t.Errorf("status after the step: %+v", r)
	}
	// What is asked for from now on holds for connections that live, too.
	cfg.Services = strings.ReplaceAll(cfg.Services, "max_age: 15m", "acr: [mfa]")
	agent.Configure(t, cfg)
	harness.Signal(t, agent.EnforcerPID(), syscall.SIGHUP)
	if n, err := vault.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes from a service that asks for more now", n)
	}
	if err := exchange(open, "still"); err != nil {
		t.Errorf("a service that does not: %v", err)
	}
	logged(t, agent, "policy no longer allows a connection")
	logged(t, agent, "not one of mfa")
}

// logged waits until the agent's log says something.
func logged(t *testing.T, agent *harness.Agent, text string) {
	t.Helper()
	harness.Eventually(t, "the log to say "+text, func() error {
		if !strings.Contains(agent.Log(), text) {
			return errors.New("it does not")
		}
		return nil
	})
}

// dialService connects to a service with the user's key, as a program that knows nothing of curfew does, and sends text.
func (u *user) dialService(t *testing.T, service, text string) (*tls.Conn, error) {
	t.Helper()
	dir := filepath.Dir(u.ca(t))
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, client.CertFile), filepath.Join(dir, client.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(dial(t, u.agent.Gateway), &tls.Config{ServerName: service, Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true})
	return c, exchange(c, text)
}

// exchange sends text to an echo, and reads it again.
func exchange(c *tls.Conn, text string) error {
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, len(text)))
	return err
}
