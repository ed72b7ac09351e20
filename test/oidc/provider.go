// SPDX-License-Identifier: Apache-2.0

//go:build unix

// Package oidc runs a real, certified OpenID provider (npm's oidc-provider) for tests, and walks
// through its pages as a user's browser would. It is for tests only, on loopback only.
package oidc

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startTime bounds the installation and the start of the provider.
const startTime = 2 * time.Minute

// Claims are what the provider says about a user.
type Claims map[string]any

// Client is a registration of a relying party, in the names of OpenID Connect Dynamic Client
// Registration 1.0, section 2.
type Client map[string]any

// Options say what the provider knows. The zero value knows nobody.
type Options struct {
	Port    int    // 0 picks a free one
	Issuer  string // empty: where it listens
	Clients []Client
	Users   map[string]Claims
	TTL     map[string]int // lifetimes in seconds, by model name: IdToken, RefreshToken, ...
	CA      string         // a file of certificates that it believes beside the system's
	// On runs what starts it, for example on another host; nil: here.
	On func(func() error) error
}

// WebClient is a confidential client with refresh tokens.
func WebClient(id, secret string, redirects ...string) Client {
	return Client{
		"client_id": id, "client_secret": secret, "redirect_uris": redirects,
		"grant_types": []string{"authorization_code", "refresh_token"},
	}
}

// WithBackChannel asks the provider to tell the relying party at uri when its users sign out.
func (c Client) WithBackChannel(uri string) Client {
	c["backchannel_logout_uri"], c["backchannel_logout_session_required"] = uri, true
	return c
}

// WithDevice lets the client sign in users by a code (RFC 8628).
func (c Client) WithDevice() Client {
	c["grant_types"] = append(c["grant_types"].([]string), "urn:ietf:params:oauth:grant-type:device_code")
	return c
}

// MachineClient is one that is given access tokens for its own credentials.
func MachineClient(id, secret string) Client {
	return Client{"client_id": id, "client_secret": secret, "grant_types": []string{"client_credentials"},
		"redirect_uris": []string{}, "response_types": []string{}}
}

// Provider is a running provider.
type Provider struct {
	Issuer string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

// Start runs a provider until the test ends. A missing node or npm fails the test.
func Start(t testing.TB, o Options) *Provider {
	t.Helper()
	dir := install(t)
	config, err := json.Marshal(map[string]any{
		"port": o.Port, "issuer": o.Issuer, "clients": orEmpty(o.Clients), "users": o.Users, "ttl": o.TTL,
	})
	if err != nil {
		t.Fatalf("encode provider options: %v", err)
	}
	cmd := exec.Command(node(dir), filepath.Join(dir, "server.mjs"), string(config))
	cmd.Env = append(os.Environ(), "NODE_NO_WARNINGS=1")
	if o.CA != "" {
		cmd.Env = append(cmd.Env, "NODE_EXTRA_CA_CERTS="+o.CA)
	}
	log := &tail{}
	cmd.Stderr = log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start := cmd.Start
	if o.On != nil {
		start = func() error { return o.On(cmd.Start) }
	}
	if err := start(); err != nil {
		t.Fatalf("start node: %v", err)
	}
	p := &Provider{cmd: cmd, stdin: stdin, stdout: bufio.NewReader(stdout)}
	t.Cleanup(p.Stop)
	p.Issuer = readIssuer(t, p.stdout, log)
	return p
}

// node is the Node.js of the lockfile: distributions have older ones than the provider runs on.
func node(dir string) string {
	arch := map[string]string{"amd64": "x64"}[runtime.GOARCH]
	return filepath.Join(dir, "node_modules", "node-linux-"+cmp.Or(arch, runtime.GOARCH), "bin", "node")
}

func orEmpty(c []Client) []Client {
	if c == nil {
		return []Client{}
	}
	return c
}

func readIssuer(t testing.TB, stdout *bufio.Reader, log *tail) string {
	t.Helper()
	line := make(chan string, 1)
	go func() {
		s, _ := stdout.ReadString('\n') // what is missing is no JSON
		line <- s
	}()
	var ready struct{ Issuer string }
	select {
	case s := <-line:
		if err := json.Unmarshal([]byte(s), &ready); err != nil {
			t.Fatalf("provider did not start: %v\n%s", err, log)
		}
	case <-time.After(startTime):
		t.Fatalf("provider is not ready after %v\n%s", startTime, log)
	}
	return ready.Issuer
}

// SetClaims changes what the provider says of a user.
func (p *Provider) SetClaims(user string, c Claims) error {
	_, err := p.administer(map[string]any{"claims": map[string]Claims{user: c}})
	return err
}

// RevokeGrants revokes all that a user has granted, as an administrator does; nobody is told.
func (p *Provider) RevokeGrants(user string) error {
	_, err := p.administer(map[string]any{"revoke": user})
	return err
}

// Tokens returns every token that the provider has given out.
func (p *Provider) Tokens() ([]string, error) { return p.administer(map[string]any{}) }

// administer is for one goroutine at a time.
func (p *Provider) administer(order any) ([]string, error) {
	if err := json.NewEncoder(p.stdin).Encode(order); err != nil {
		return nil, fmt.Errorf("administer the provider: %w", err)
	}
	var line []byte
	for !bytes.HasPrefix(line, []byte("{")) { // it prints notices, too
		var err error
		if line, err = p.stdout.ReadBytes('\n'); err != nil {
			return nil, fmt.Errorf("administer the provider: %w", err)
		}
	}
	var said struct{ Tokens []string }
	if err := json.Unmarshal(line, &said); err != nil {
		return nil, fmt.Errorf("administer the provider: %w", err)
	}
	return said.Tokens, nil
}

// Stop ends the provider. It may be called more than once.
func (p *Provider) Stop() {
	_ = p.stdin.Close()
	_ = p.cmd.Process.Kill() // by the process we started; it may have ended already
	_ = p.cmd.Wait()
}

// Refresh tries a refresh token at the provider and returns the provider's error code, or "".
func (p *Provider) Refresh(ctx context.Context, clientID, secret, token string) (string, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	a, err := p.post(ctx, "/token", clientID, secret, form)
	return a.Error, err
}

// MachineToken returns an access token (RFC 9068) of a MachineClient for an audience.
func (p *Provider) MachineToken(ctx context.Context, clientID, secret, audience string) (string, error) {
	a, err := p.post(ctx, "/token", clientID, secret, url.Values{"grant_type": {"client_credentials"}, "resource": {audience}})
	if err == nil && a.AccessToken == "" {
		err = fmt.Errorf("the provider answered %q, and no token", a.Error)
	}
	return a.AccessToken, err
}

// Active asks the provider whether a token is good (RFC 7662). Unlike Refresh, it uses up
// nothing.
func (p *Provider) Active(ctx context.Context, clientID, secret, token string) (bool, error) {
	a, err := p.post(ctx, "/token/introspection", clientID, secret, url.Values{"token": {token}})
	return a.Active, err
}

// Revoke revokes a token behind the relying party's back.
func (p *Provider) Revoke(ctx context.Context, clientID, secret, token string) error {
	a, err := p.post(ctx, "/token/revocation", clientID, secret, url.Values{"token": {token}})
	if err == nil && a.Error != "" {
		err = fmt.Errorf("the provider answered %s", a.Error)
	}
	return err
}

type answer struct {
	Error       string
	Active      bool
	AccessToken string `json:"access_token"`
}

func (p *Provider) post(ctx context.Context, path, clientID, secret string, form url.Values) (a answer, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.Issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		return a, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(secret))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil && err != io.EOF {
		return a, fmt.Errorf("%s answered %s: %w", path, resp.Status, err)
	}
	return a, nil
}

// install runs npm ci once per checkout, and anew when the lockfile has changed, and returns the
// directory of this package.
func install(t testing.TB) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	dir := filepath.Dir(file)
	lock, err := os.OpenFile(filepath.Join(dir, "package-lock.json"), os.O_RDONLY, 0)
	if err != nil {
		t.Fatalf("find the provider's packages: %v", err)
	}
	defer lock.Close()
	// Tests of several packages run at the same time, each in a process of its own.
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatalf("lock: %v", err)
	}
	want, err := lock.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if have, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err == nil && !have.ModTime().Before(want.ModTime()) {
		return dir
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}
