// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/oidc"
	"github.com/curfew-proxy/curfew/test/peers"
)

// site is an agent with a database behind it, and the provider that its users sign in at.
type site struct {
	agent    *harness.Agent
	provider *oidc.Provider
	options  oidc.Options
	alice    *user
	bob      *user
}

// newSite has both signed in, and each run psql. more is YAML of the agent's provider.
func newSite(t *testing.T, allow, more string) *site {
	t.Helper()
	port, secret := peers.FreePort(t), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &site{agent: harness.Start(t, harness.Config{
		Services: fmt.Sprintf("  - {name: db, protocol: postgres, upstream: %q, allow: %q}\n", peers.Postgres(t), allow),
		Extra:    fmt.Sprintf("providers:\n  - {name: corp, issuer: 'http://127.0.0.1:%d', client_id: curfew, client_secret_file: %s%s}\n", port, secret, more),
	})}
	s.alice, s.bob = &user{agent: s.agent, home: t.TempDir(), name: "alice"}, &user{agent: s.agent, home: t.TempDir(), name: "bob"}
	s.alice.login(t) // the provider is down: they have met the agent, which is all
	at := "https://" + s.agent.Gateway
	s.options = oidc.Options{Port: port, CA: s.alice.ca(t),
		Clients: []oidc.Client{oidc.WebClient("curfew", "s3cret", at+"/callback/corp").WithBackChannel(at + "/backchannel-logout/corp")},
		Users:   map[string]oidc.Claims{"alice": {"name": "Alice", "groups": []string{"dba"}}, "bob": {"name": "Bob", "groups": []string{"dba"}}}}
	s.options.Clients[0]["post_logout_redirect_uris"] = []string{at + "/signed-out/corp"}
	s.provider = oidc.Start(t, s.options)
	for _, u := range []*user{s.alice, s.bob} {
		u.mustLogin(t)
	}
	return s
}

func (u *user) mustLogin(t *testing.T) {
	t.Helper()
	harness.Eventually(t, "a sign-in", func() error {
		if r := u.login(t); r.Code != 0 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
}

// TestLogoutAtTheProvider has psql run when its user signs out at the provider, in the browser, and at nothing else. It is cut
// within a second, in one of three tries: the machine has other things to do, too.
func TestLogoutAtTheProvider(t *testing.T) {
	s := newSite(t, "true", "")
	his := s.bob.psql(t)
	late := s.timeSignOut(t)
	for range 2 {
		if late < time.Second {
			break
		}
		s.alice.mustLogin(t)
		late = s.timeSignOut(t)
	}
	if late >= time.Second {
		t.Errorf("it took %v", late)
	}
	if r := s.alice.curfew(t, "status"); r.Code != 4 || !strings.Contains(r.Stderr, "the identity provider ended it") {
		t.Errorf("status: %+v", r)
	}
	if r := s.bob.curfew(t, "status"); r.Code != 0 {
		t.Errorf("another's session: %+v", r)
	}
	his.mustRun(t)
	s.alice.mustLogin(t)
}

// timeSignOut returns how long after she asked to be signed out at the provider alice's psql is cut.
func (s *site) timeSignOut(t *testing.T) time.Duration {
	t.Helper()
	hers, began := s.alice.psql(t), time.Now()
	if err := s.alice.browser.SignOut(t.Context(), s.provider); err != nil {
		t.Fatal(err)
	}
	hers.mustEnd(t)
	late := hers.ended.Sub(began).Round(time.Millisecond)
	t.Logf("psql was cut %v after the browser asked to be signed out", late)
	return late
}

// running is a command under way.
type running struct {
	done   chan struct{} // closed when it has ended
	stop   func()
	ended  time.Time
	result harness.Result
}

func (r *running) mustEnd(t *testing.T) {
	t.Helper()
	select {
	case <-r.done:
		if r.result.Code == 0 {
			t.Errorf("it ended by itself: %+v", r.result)
		}
	case <-time.After(harness.Patience):
		t.Fatal("it goes on")
	}
}

func (r *running) mustRun(t *testing.T) {
	t.Helper()
	select {
	case <-r.done:
		t.Errorf("it has ended: %+v", r.result)
	default:
	}
}

// psql runs a query that prints for minutes, and returns when it has begun to.
func (u *user) psql(t *testing.T) *running {
	t.Helper()
	cmd := u.command(t, "connect", "db", "--", "sh", "-c",
		`exec psql "host=127.0.0.1 port=$CURFEW_PORT user=postgres dbname=postgres sslmode=disable" -c "COPY (SELECT repeat('x', 8000), pg_sleep(0.02) FROM generate_series(1, 6000) i) TO STDOUT"`)
	out := &signal{begun: make(chan struct{})}
	var errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &running{done: make(chan struct{}), stop: func() { _ = cmd.Process.Kill() }}
	go func() {
		defer close(r.done)
		_ = cmd.Wait() // the exit code says it
		r.ended, r.result = time.Now(), harness.Result{Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode()}
	}()
	t.Cleanup(func() { r.stop(); <-r.done })
	select {
	case <-out.begun:
	case <-r.done:
		t.Fatalf("psql: %+v", r.result)
	case <-time.After(harness.Patience):
		t.Fatal("psql prints nothing")
	}
	return r
}

// signal notes the first that is written.
type signal struct {
	begun chan struct{}
	seen  bool
}

func (s *signal) Write(b []byte) (int, error) {
	if !s.seen {
		s.seen = true
		close(s.begun)
	}
	return len(b), nil
}
