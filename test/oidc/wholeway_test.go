// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/lab"
	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/oidc"
	"github.com/curfew-proxy/curfew/test/peers"
)

// user is somebody at a laptop of their own: with the program, a home and a browser.
type user struct {
	agent   *harness.Agent
	home    string
	name    string
	browser *oidc.Browser                   // that the last sign-in went through
	host    *lab.Host                       // that both are on; nil: here
	visit   func(t *testing.T, link string) // opens the link instead of browser; nil: browser does
}

var startLink = regexp.MustCompile(`https://\S+/start/\S+`)

func (u *user) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+u.home, "CURFEW_AGENT=")
	return cmd
}

func (u *user) curfew(t *testing.T, args ...string) harness.Result {
	t.Helper()
	cmd := u.command(t, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	u.start(t, cmd)
	_ = cmd.Wait() // the exit code says it
	return harness.Result{Stdout: out.String(), Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode()}
}

// start starts a command on the user's host.
func (u *user) start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	start := cmd.Start
	if u.host != nil {
		start = func() error { return u.host.Do(cmd.Start) }
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
}

// login signs in, and opens the page that the program shows.
func (u *user) login(t *testing.T, more ...string) harness.Result {
	t.Helper()
	cmd := u.command(t, append([]string{"login", "--no-browser", "--accept-new", u.agent.Gateway}, more...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	cmd.Stdout = &out
	u.start(t, cmd)
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		fmt.Fprintln(&errOut, lines.Text())
		if link := startLink.FindString(lines.Text()); link != "" {
			u.open(t, link)
		}
	}
	_ = cmd.Wait() // the exit code says it
	return harness.Result{Stdout: out.String(), Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode()}
}

// open opens the page that a sign-in begins with, and does what the pages ask for.
func (u *user) open(t *testing.T, link string) {
	t.Helper()
	if u.visit != nil {
		u.visit(t, link)
		return
	}
	u.browser = oidc.NewBrowser(u.name, u.roots(t))
	if u.host != nil {
		u.browser.On(func(to string) (net.Conn, error) { return u.host.Dial("", to, harness.Patience) })
	}
	if _, err := u.browser.Walk(t.Context(), link, nil); err != nil {
		t.Errorf("browser: %v", err)
	}
}

// roots vouch for the agent's own certificate, as if the user had told the browser to go on.
func (u *user) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(u.ca(t))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

// ca is the file that holds what the user believes of the agent since the first contact.
func (u *user) ca(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(u.home, "curfew", "*", "ca.pem"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the agent's certificates: %v, %v", files, err)
	}
	return files[0]
}

// TestTheWholeWay goes it with the built program, the real provider and the kernel: sign in,
// work, be killed and told why, sign in again, sign out.
func TestTheWholeWay(t *testing.T) {
	port, secret := peers.FreePort(t), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := harness.Start(t, harness.Config{
		Services: fmt.Sprintf("  - {name: echo, upstream: %q, allow: '\"dba\" in identity.groups'}\n  - {name: vault, upstream: '127.0.0.1:9', allow: '\"root\" in identity.groups'}\n", echo(t)),
		Extra:    fmt.Sprintf("providers:\n  - {name: corp, issuer: 'http://127.0.0.1:%d', client_id: curfew, client_secret_file: %s}\n", port, secret),
	})
	u := &user{agent: agent, home: t.TempDir(), name: "alice"}
	if r := u.login(t); r.Code != 1 || !strings.Contains(r.Stderr, "corp cannot be reached") {
		t.Fatalf("login with the provider down: %+v", r)
	}
	oidc.Start(t, oidc.Options{Port: port,
		Clients: []oidc.Client{oidc.WebClient("curfew", "s3cret", "https://"+agent.Gateway+"/callback/corp")},
		Users:   map[string]oidc.Claims{"alice": {"name": "Alice A.", "groups": []string{"dba"}}}})
	harness.Eventually(t, "a sign-in", func() error {
		if r := u.login(t); r.Code != 0 || !strings.Contains(r.Stdout, "signed in as Alice A.") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	if r := u.curfew(t, "status"); r.Code != 0 || !strings.Contains(r.Stdout, "services: echo\n") {
		t.Errorf("status: %+v", r)
	}
	if r := u.curfew(t, "connect", "vault", "--", "true"); r.Code != 1 || !strings.Contains(r.Stderr, "you may use: echo") {
		t.Errorf("a service of others: %+v", r)
	}
	u.workUntilKilled(t)
	if r := u.curfew(t, "status"); r.Code != 4 || !strings.Contains(r.Stderr, "laptop stolen") {
		t.Errorf("status after the kill: %+v", r)
	}
	if r := u.login(t); r.Code != 0 {
		t.Fatalf("login again: %+v", r)
	}
	if r := u.curfew(t, "connect", "echo", "--", "sh", "-c", "exit 7"); r.Code != 7 {
		t.Errorf("a command's exit code: %+v", r)
	}
	if r := u.curfew(t, "logout"); r.Code != 0 || strings.Contains(r.Stdout, "not confirmed") {
		t.Errorf("logout: %+v", r)
	}
	if r := u.curfew(t, "connect", "echo", "--", "true"); r.Code != 4 || !strings.Contains(r.Stderr, "you signed out") {
		t.Errorf("connect after logout: %+v", r)
	}
}

// workUntilKilled has a tunnel open when an operator ends the session.
func (u *user) workUntilKilled(t *testing.T) {
	t.Helper()
	cmd := u.command(t, "connect", "echo", "-o", "json")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var at struct{ Listen string }
	if err := json.NewDecoder(stdout).Decode(&at); err != nil {
		t.Fatalf("connect: %v\n%s", err, &errOut)
	}
	half := dial(t, at.Listen)
	if _, err := half.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = half.CloseWrite()
	if b, err := io.ReadAll(half); err != nil || string(b) != "hello" {
		t.Errorf("half-close: %q, %v", b, err)
	}
	open := dial(t, at.Listen)
	if _, err := open.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(open, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if k, r := u.agent.KillJSON(t, "--subject", "alice", "--reason", "laptop stolen"); !k.Verified || k.Destroyed+k.Gone != 1 {
		t.Errorf("kill: %+v %+v", k, r)
	}
	if n, err := open.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes after the kill", n)
	}
	_ = cmd.Wait() // the exit code says it
	if code := cmd.ProcessState.ExitCode(); code != 4 || !strings.Contains(errOut.String(), "laptop stolen") || !strings.Contains(errOut.String(), "curfew login") {
		t.Errorf("connect after the kill: exit code %d\n%s", code, &errOut)
	}
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(harness.Patience))
	return c.(*net.TCPConn)
}

// echo is an upstream that sends back what it gets, and the end of it.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go serveEcho(l)
	return l.Addr().String()
}
