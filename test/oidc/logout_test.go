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

// TestLogoutAtTheProvider has psql run when its user signs out at the provider, in the browser, and at nothing else.
func TestLogoutAtTheProvider(t *testing.T) {
	port, secret := peers.FreePort(t), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := harness.Start(t, harness.Config{
		Services: fmt.Sprintf("  - {name: db, protocol: postgres, upstream: %q, allow: 'true'}\n", peers.Postgres(t)),
		Extra:    fmt.Sprintf("providers:\n  - {name: corp, issuer: 'http://127.0.0.1:%d', client_id: curfew, client_secret_file: %s}\n", port, secret),
	})
	alice, bob := &user{agent: agent, home: t.TempDir(), name: "alice"}, &user{agent: agent, home: t.TempDir(), name: "bob"}
	alice.login(t) // the provider is down: they have met the agent, which is all
	client := oidc.WebClient("curfew", "s3cret", "https://"+agent.Gateway+"/callback/corp").WithBackChannel("https://" + agent.Gateway + "/backchannel-logout/corp")
	oidcProvider := oidc.Start(t, oidc.Options{Port: port, CA: alice.ca(t), Clients: []oidc.Client{client},
		Users: map[string]oidc.Claims{"alice": {"name": "Alice"}, "bob": {"name": "Bob"}}})
	for _, u := range []*user{alice, bob} {
		harness.Eventually(t, "a sign-in", func() error {
			if r := u.login(t); r.Code != 0 {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	theirs, bobs := alice.psql(t), bob.psql(t)
	began := time.Now()
	if err := alice.browser.SignOut(t.Context(), oidcProvider); err != nil {
		t.Fatal(err)
	}
	if r := theirs.wait(t); r.Code == 0 {
		t.Errorf("psql: %+v", r)
	}
	t.Logf("psql was cut %v after the browser asked to be signed out", theirs.ended.Sub(began).Round(time.Millisecond))
	if late := theirs.ended.Sub(began); late > 5*time.Second { // the promise is a second; this machine has other things to do, too
		t.Errorf("it took %v", late)
	}
	if r := alice.curfew(t, "status"); r.Code != 4 || !strings.Contains(r.Stderr, "the identity provider ended it") {
		t.Errorf("status: %+v", r)
	}
	if r := bob.curfew(t, "status"); r.Code != 0 {
		t.Errorf("another's session: %+v", r)
	}
	select {
	case <-bobs.done:
		t.Error("another's psql was cut")
	default:
	}
	if r := alice.login(t); r.Code != 0 {
		t.Errorf("signing in again: %+v", r)
	}
	bobs.stop()
}

// running is a command under way.
type running struct {
	done   chan struct{} // closed when it has ended
	stop   func()
	ended  time.Time
	result harness.Result
}

func (r *running) wait(t *testing.T) harness.Result {
	t.Helper()
	select {
	case <-r.done:
		return r.result
	case <-time.After(harness.Patience):
		t.Fatal("it goes on")
		return harness.Result{}
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
