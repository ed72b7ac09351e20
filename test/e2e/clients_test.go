// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"crypto/x509"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/oidc"
	"github.com/curfew-proxy/curfew/test/peers"
)

// user is somebody at a desk: a home directory with a client's keys, and a browser.
type user struct {
	agent *harness.Agent
	home  string
	name  string
}

func newUser(t *testing.T, agent *harness.Agent, name string) *user {
	return &user{agent: agent, home: t.TempDir(), name: name}
}

func (u *user) env() []string {
	return append(os.Environ(), "HOME="+u.home, "XDG_CONFIG_HOME="+u.home, "CURFEW_AGENT="+u.agent.Gateway)
}

// command is a curfew command of this user.
func (u *user) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), args...)
	cmd.Env = u.env()
	return cmd
}

// file is a copy of one of the files that the sign-in keeps for other programs. The client wipes its
// own when the session ends; the copies are what a thief would have.
func (u *user) file(name string) string { return filepath.Join(u.home, "copies", name) }

func (u *user) copyFiles(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(u.home, "copies"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cert.pem", "key.pem", "ca.pem"} {
		found, err := filepath.Glob(filepath.Join(u.home, "curfew", "*", name))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s of the client: %v, %v", name, found, err)
		}
		body, err := os.ReadFile(found[0])
		if err == nil {
			err = os.WriteFile(u.file(name), body, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

var link = regexp.MustCompile(`https://\S+`)

// login signs in with the curfew command, and with a browser that fills in the provider's forms.
func (u *user) login(t *testing.T, more ...string) api.Session {
	t.Helper()
	cmd := u.command(t, append([]string{"login", u.agent.Gateway, "--no-browser", "--accept-new", "-o", "json"}, more...)...)
	var out strings.Builder
	cmd.Stdout = &out
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var errOut strings.Builder
	for lines := bufio.NewScanner(io.TeeReader(said, &errOut)); lines.Scan(); {
		if page := link.FindString(lines.Text()); page != "" {
			u.browse(t, page)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("curfew login: %v\n%s%s", err, out.String(), errOut.String())
	}
	var s api.Session
	if err := json.Unmarshal([]byte(out.String()), &s); err != nil {
		t.Fatalf("curfew login: %v\n%s", err, out.String())
	}
	u.copyFiles(t)
	return s
}

func (u *user) browse(t *testing.T, page string) {
	t.Helper()
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(u.agent.State(), "agent-cert.pem"))
	if err != nil || !roots.AppendCertsFromPEM(ca) {
		t.Fatalf("the agent's certificate: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	last, err := oidc.NewBrowser(u.name, roots).Walk(ctx, page, func(*url.URL) bool { return false })
	if err != nil || last.Status != 200 {
		t.Fatalf("the browser ends at %v with status %d: %v\n%s", last.URL, last.Status, err, last.Body)
	}
}

// desk is an agent with the four services that people use, behind a real provider.
type desk struct {
	*harness.Agent
	ports map[string]string // of services with a port of their own
	ssh   *peers.SSH
}

func newDesk(t *testing.T, sessions string) *desk {
	t.Helper()
	d := &desk{ports: map[string]string{}, ssh: peers.OpenSSH(t)}
	for _, name := range []string{"db", "cache"} {
		d.ports[name] = fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a-secret-of-the-test"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The provider must know the agent's address, and the agent the provider's.
	gateway := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	provider := oidc.Start(t, oidc.Options{
		Clients: []oidc.Client{oidc.WebClient("curfew", "a-secret-of-the-test", "https://"+gateway+"/callback/idp")},
		Users:   map[string]oidc.Claims{"alice": {"sub": "alice", "name": "Alice", "email": "alice@example.com", "groups": []string{"dba"}}},
	})
	d.Agent = harness.Start(t, harness.Config{
		Gateway: gateway,
		Services: fmt.Sprintf(`  - {name: db, listen: [%q], protocol: postgres, upstream: %q, allow: 'identity.subject == "alice"'}
  - {name: cache, listen: [%q], upstream: %q, allow: 'identity.subject == "alice"'}
  - {name: web, upstream: %q, allow: 'identity.subject == "alice"'}
  - {name: shell, upstream: %q, allow: 'identity.subject == "alice"'}
`, d.ports["db"], peers.Postgres(t), d.ports["cache"], peers.Redis(t), peers.Ticker(t, 100*time.Millisecond), d.ssh.Addr),
		Extra: fmt.Sprintf("sessions: %s\nproviders:\n  - {name: idp, issuer: %q, client_id: curfew, client_secret_file: %q}\n", sessions, provider.Issuer, secret),
	})
	harness.Eventually(t, "the provider to be reached", func() error {
		s, err := d.Control.Status(t.Context())
		if err == nil && len(s.Problems) > 0 {
			err = fmt.Errorf("%v", s.Problems)
		}
		return err
	})
	return d
}

// endless is a client that runs until its connection ends.
type endless struct {
	name string
	ends chan ended
}

type ended struct {
	at  time.Time
	how string // and what it said
}

func (d *desk) psql(t *testing.T, u *user, sql string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(d.ports["db"])
	return u.with(t, "psql", "-At", "-c", sql, fmt.Sprintf("host=%s port=%s user=postgres sslmode=verify-ca sslcert=%s sslkey=%s sslrootcert=%s connect_timeout=30",
		host, port, u.file("cert.pem"), u.file("key.pem"), u.file("ca.pem")))
}

func (d *desk) redis(t *testing.T, u *user, args ...string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(d.ports["cache"])
	return u.with(t, "redis-cli", append([]string{"-h", host, "-p", port, "--tls", "--cert", u.file("cert.pem"), "--key", u.file("key.pem"), "--cacert", u.file("ca.pem")}, args...)...)
}

// with is a program of somebody else's, run by this user.
func (u *user) with(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), peers.Find(t, name), args...)
	cmd.Env = append(u.env(), "PGSSLCERTMODE=allow")
	return cmd
}

// follow runs cmd, waits for the first line that it prints on out, and then for its end.
func follow(t *testing.T, name string, cmd *exec.Cmd) *endless {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errOut strings.Builder
	cmd.Stderr = &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e := &endless{name: name, ends: make(chan ended, 1)}
	first := make(chan string, 1)
	go func() {
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n') // empty if it never said anything
		first <- line
		n, _ := io.Copy(io.Discard, r) // ends with the process
		err := cmd.Wait()
		e.ends <- ended{time.Now(), fmt.Sprintf("%v after %d more bytes: %s", err, n, strings.TrimSpace(errOut.String()))}
	}()
	select {
	case line := <-first:
		if line == "" {
			t.Fatalf("%s printed nothing: %s", name, (<-e.ends).how)
		}
	case <-time.After(harness.Patience):
		t.Fatalf("%s does not print anything", name)
	}
	return e
}

// tick opens the websocket through "curfew connect" and reads until it ends.
func (d *desk) tick(t *testing.T, u *user) *endless {
	t.Helper()
	local := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	tunnel := u.command(t, "connect", "web", "--listen", local)
	p := peers.Start(t, tunnel)
	p.WaitDial(t, local)
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	t.Cleanup(cancel)
	ws, _, err := websocket.Dial(ctx, "ws://"+local, nil)
	if err != nil {
		t.Fatalf("websocket: %v\n%s", err, p.Output())
	}
	if _, _, err := ws.Read(ctx); err != nil {
		t.Fatalf("websocket: %v\n%s", err, p.Output())
	}
	e := &endless{name: "websocket", ends: make(chan ended, 1)}
	go func() {
		for {
			if _, _, err := ws.Read(context.Background()); err != nil {
				e.ends <- ended{time.Now(), err.Error()}
				return
			}
		}
	}()
	return e
}

func (d *desk) openEverything(t *testing.T, u *user) []*endless {
	t.Helper()
	stdio := []string{harness.Binary(t), "connect", "shell", "--stdio"}
	ssh := d.ssh.Command(t, stdio, "while sleep 0.1; do date; done")
	ssh.Env = u.env()
	return []*endless{
		follow(t, "psql COPY", d.psql(t, u, "copy (select i, repeat('x', 5000), pg_sleep(0.01) from generate_series(1, 1000000) i) to stdout")),
		follow(t, "redis SUBSCRIBE", d.redis(t, u, "subscribe", "news")),
		follow(t, "ssh", ssh),
		d.tick(t, u),
	}
}

// refusedEverywhere checks that none of the clients gets in.
func (d *desk) refusedEverywhere(t *testing.T, u *user) {
	t.Helper()
	ssh := d.ssh.Command(t, []string{harness.Binary(t), "connect", "shell", "--stdio"}, "true")
	ssh.Env = u.env()
	for name, cmd := range map[string]*exec.Cmd{
		"psql": d.psql(t, u, "select 1"), "redis-cli": d.redis(t, u, "ping"), "ssh": ssh,
		"curfew connect": u.command(t, "connect", "web", "--", "true"),
	} {
		if out, err := cmd.CombinedOutput(); err == nil && !strings.Contains(string(out), "rror") {
			t.Errorf("%s was let in after the end: %s", name, out)
		}
	}
}

// The main job. One person signs in through a real OpenID provider and uses psql, redis-cli, ssh and a
// websocket; at the deadline all of it is cut, nothing is let in, and signing in again works.
func TestEveryClientIsCutAtTheDeadline(t *testing.T) {
	d := newDesk(t, "{absolute_timeout: 8s}")
	u := newUser(t, d.Agent, "alice")
	s := u.login(t)
	if s.Identity.Subject != "alice" || s.Left.Duration() > 8*time.Second {
		t.Fatalf("signed in as %+v", s)
	}
	running := d.openEverything(t, u)
	for _, e := range running {
		select {
		case end := <-e.ends:
			late := end.at.Sub(s.Deadline)
			if t.Logf("%s, %v after the deadline: %s", e.name, late, end.how); late < 0 || late > 5*time.Second {
				t.Errorf("%s ended %v after the deadline", e.name, late)
			}
		case <-time.After(harness.Patience):
			t.Fatalf("%s was not cut", e.name)
		}
	}
	d.refusedEverywhere(t, u)
	out, err := u.command(t, "status").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "absolute-timeout") {
		t.Errorf("curfew status does not say why the session ended: %v\n%s", err, out)
	}
	u.login(t)
	if out, err := d.psql(t, u, "select 42").CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "42" {
		t.Errorf("after signing in again: %v\n%s", err, out)
	}
}

// Who signs in again with the same key goes on without a cut, up to the new deadline.
func TestEveryClientGoesOnWhenTheSessionIsExtended(t *testing.T) {
	d := newDesk(t, "{absolute_timeout: 8s}")
	u := newUser(t, d.Agent, "alice")
	old := u.login(t)
	running := d.openEverything(t, u)
	next := u.login(t, "--extend")
	if next.ID == old.ID || next.Left.Duration() < 7*time.Second {
		t.Fatalf("extended to %+v", next)
	}
	if got := d.MustCurfew(t, "sessions", "show", old.ID.String()).Stdout; !strings.Contains(got, "superseded") {
		t.Errorf("the old session:\n%s", got)
	}
	for _, e := range running {
		select {
		case end := <-e.ends:
			if early := next.Deadline.Sub(end.at); early > 0 {
				t.Errorf("%s was cut %v before the new deadline: %s", e.name, early, end.how)
			}
		case <-time.After(harness.Patience):
			t.Fatalf("%s was not cut", e.name)
		}
	}
	d.refusedEverywhere(t, u)
	mallory := newUser(t, d.Agent, "bob")
	if out, err := mallory.command(t, "login", d.Gateway, "--no-browser", "--accept-new", "--extend").CombinedOutput(); err == nil || !strings.Contains(string(out), "curfew login") {
		t.Errorf("extended without a session: %v\n%s", err, out)
	}
}

// The same with an operator's kill, and with a sign-out.
func TestEveryClientIsCutByKillAndLogout(t *testing.T) {
	d := newDesk(t, "{absolute_timeout: 1h}")
	u := newUser(t, d.Agent, "alice")
	for _, how := range []string{"kill", "logout"} {
		s := u.login(t)
		running := d.openEverything(t, u)
		if how == "kill" {
			k, res := d.KillJSON(t, s.ID.String(), "--reason", "because the test says so")
			if res.Code != 0 || k.Destroyed+k.Gone != 4 || !k.Verified {
				t.Fatalf("kill: %+v %+v", k, res)
			}
		} else if out, err := u.command(t, "logout").CombinedOutput(); err != nil {
			t.Fatalf("logout: %v\n%s", err, out)
		}
		for _, e := range running {
			select {
			case <-e.ends:
			case <-time.After(harness.Patience):
				t.Fatalf("%s: %s was not cut", how, e.name)
			}
		}
		if how == "kill" {
			d.refusedEverywhere(t, u)
			out, err := u.command(t, "connect", "web", "--", "true").CombinedOutput()
			if err == nil || !strings.Contains(string(out), "because the test says so") || !strings.Contains(string(out), "curfew login") {
				t.Errorf("curfew connect does not say why, and how to go on: %v\n%s", err, out)
			}
		}
	}
}
