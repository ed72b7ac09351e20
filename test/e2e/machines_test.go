// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/jwt"
)

// TestMachineRenewsWithoutACut has the file of a token replaced, as a kubelet does, while a stream is open: the stream goes on
// beyond the end of the first token, and the old token is of use to nobody. Where nobody renews, the stream ends with the token.
func TestMachineRenewsWithoutACut(t *testing.T) {
	key := jwt.NewKey(t, "k")
	keys := httptest.NewServer(jwt.Serve(key))
	t.Cleanup(keys.Close)
	r := newRig(t, fmt.Sprintf("machines: [{name: ci, issuer: 'https://idp.example', audience: gateway, subjects: ['*'], jwks_uri: '%s'}]\n", keys.URL))
	const life = 12 * time.Second
	m := newMachine(t, r, key, "renewed", life)
	first, ends := m.token(t), time.Now().Add(life)
	sessions := m.watch(t)
	m.wait(t, sessions, 1)
	open := mustConnect(t, r.addr, m.credentials(t))

	left := newMachine(t, r, key, "left", life)
	left.login(t)
	alone := mustConnect(t, r.addr, left.credentials(t))

	m.put(t, machineToken(t, key, "renewed", time.Hour))
	m.wait(t, sessions, 2)
	for over := ends.Add(2 * time.Second); time.Now().Before(over); time.Sleep(50 * time.Millisecond) {
		if err := roundTrip(open); err != nil {
			t.Fatalf("%v before the first token ends: %v", time.Until(ends), err)
		}
	}
	mustEnd(t, alone)
	thief := &machine{rig: r, home: t.TempDir()}
	thief.put(t, first)
	if out, err := thief.command(t, "login", "--accept-new", "--token-file", thief.file(), r.Gateway).CombinedOutput(); err == nil {
		t.Errorf("the first token, with another key: %s", out)
	}
}

// machine is a program with a token, and with a home of its own.
type machine struct {
	rig  *rig
	home string
}

func newMachine(t *testing.T, r *rig, key *jwt.Key, subject string, life time.Duration) *machine {
	t.Helper()
	m := &machine{rig: r, home: t.TempDir()}
	m.put(t, machineToken(t, key, subject, life))
	return m
}

// machineToken is good for a while from now.
func machineToken(t *testing.T, key *jwt.Key, subject string, life time.Duration) string {
	t.Helper()
	now := time.Now()
	claims, err := json.Marshal(map[string]any{"iss": "https://idp.example", "aud": "gateway", "sub": subject, "iat": now.Unix(), "exp": now.Add(life).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	return key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, string(claims))
}

func (m *machine) file() string { return filepath.Join(m.home, "token") }

// put replaces the token at once, as it should be done.
func (m *machine) put(t *testing.T, token string) {
	t.Helper()
	if err := os.WriteFile(m.file()+".new", []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.file()+".new", m.file()); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) token(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(m.file())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (m *machine) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(harness.Binary(t), args...) // it may have to end in its own time
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+m.home, "CURFEW_AGENT=")
	return cmd
}

func (m *machine) login(t *testing.T) {
	t.Helper()
	if out, err := m.command(t, "login", "--accept-new", "--token-file", m.file(), m.rig.Gateway).CombinedOutput(); err != nil {
		t.Fatalf("login: %v\n%s", err, out)
	}
}

// watch stays signed in until the test ends. It returns what is printed: a line for each session.
func (m *machine) watch(t *testing.T) *output {
	t.Helper()
	out := &output{}
	cmd := m.command(t, "login", "--accept-new", "--watch", "-o", "json", "--token-file", m.file(), m.rig.Gateway)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("login --watch: %v", err)
		}
	})
	return out
}

func (m *machine) wait(t *testing.T, out *output, sessions int) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("session %d", sessions), func() error {
		if have := strings.Count(out.String(), "\n"); have < sessions {
			return fmt.Errorf("%d so far", have)
		}
		return nil
	})
}

func (m *machine) credentials(t *testing.T) harness.Credentials {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(m.home, "curfew", "*", "cert.pem"))
	if err != nil || len(found) != 1 {
		t.Fatalf("certificates: %v, %v", found, err)
	}
	dir := filepath.Dir(found[0])
	return harness.Credentials{Cert: found[0], Key: filepath.Join(dir, "key.pem"), CA: filepath.Join(dir, "ca.pem")}
}

// output is what a program writes, for others to read meanwhile.
type output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
