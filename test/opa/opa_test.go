// SPDX-License-Identifier: Apache-2.0

//go:build linux

package opa_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/opa"
	"github.com/curfew-proxy/curfew/test/peers"
)

// The policies; their input is what docs/policy.md says.
const (
	dbaOnly = `package curfew

default decision := {"allow": false, "reason": "not a database administrator"}

decision := {"allow": true} if {
	"dba" in input.identity.groups
	input.service in ["db", "slow"]
	net.cidr_contains("127.0.0.0/8", input.source)
	time.parse_rfc3339_ns(input.session.deadline) > time.parse_rfc3339_ns(input.time)
	time.parse_rfc3339_ns(input.identity.auth_time) >= 0
}
`
	nobody = `package curfew

decision := {"allow": false, "reason": "frozen for the night"}
`
)

// counted are the agent's metrics.
func (w *world) counted(t *testing.T) string {
	t.Helper()
	resp, err := http.Get("http://" + w.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// world is an agent with two services whose engine is the real one: answers of slow are kept for an hour.
type world struct {
	agent   *harness.Agent
	metrics string // its address
	engine  *opa.Server
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{engine: opa.Start(t, dbaOnly), metrics: fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(opa.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	service := func(name, cache string) string {
		return fmt.Sprintf("  - {name: %s, upstream: %q, allow: 'true', opa: {url: %s/curfew/decision, timeout: 5s, cache: %s, token_file: %s, ca_file: %s}}\n",
			name, echo(t), w.engine.URL, cache, token, w.engine.CA)
	}
	w.agent = harness.Start(t, harness.Config{Extra: "metrics: " + w.metrics, Services: service("db", "1s") + service("slow", "1h")})
	return w
}

// echo answers with what it is sent, and returns its address.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	return l.Addr().String()
}

// dial opens a connection to a service, and sees whether it echoes.
func (w *world) dial(t *testing.T, who harness.Credentials, service string) (*tls.Conn, error) {
	t.Helper()
	tcp, err := net.Dial("tcp", w.agent.Gateway)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tcp.Close() })
	_ = tcp.SetDeadline(time.Now().Add(harness.Patience)) // an open socket takes it
	c := tls.Client(tcp, who.TLS(t, service))
	return c, exchange(c)
}

func exchange(c *tls.Conn) error {
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}

// line waits for a line of the agent's log that has all of texts, and returns the last.
func (w *world) line(t *testing.T, texts ...string) (found string) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("a line with %q", texts), func() error {
		for l := range strings.Lines(w.agent.Log()) {
			has := true
			for _, text := range texts {
				has = has && strings.Contains(l, text)
			}
			if has {
				found = l
			}
		}
		if found == "" {
			return errors.New("there is none")
		}
		return nil
	})
	return found
}

var decisionID = regexp.MustCompile(`decision_id["=:]+([0-9a-f-]{36})`)

// decision takes the name of a decision from a line, and finds it in the engine's own log, with its result.
func (w *world) decision(t *testing.T, line, result string) string {
	t.Helper()
	m := decisionID.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("no decision in %s", line)
	}
	harness.Eventually(t, "the decision in the engine's log", func() error {
		for l := range strings.Lines(w.engine.Log()) {
			var entry struct {
				DecisionID string `json:"decision_id"`
				Result     json.RawMessage
			}
			if json.Unmarshal([]byte(l), &entry) == nil && entry.DecisionID == m[1] && strings.Contains(string(entry.Result), result) {
				return nil
			}
		}
		return errors.New("it is not there")
	})
	return m[1]
}

// TestSecondOpinion: the real engine lets in and turns away, by a policy that reads what it is told; both logs call a
// decision by the same name; a new policy counts when the answers before are too old, and for live connections when
// the agent asks again; and without an engine nobody passes.
func TestSecondOpinion(t *testing.T) {
	w := newWorld(t)
	_, alice := w.agent.CreateSession(t, "alice", time.Hour, "--group", "dba")
	_, bob := w.agent.CreateSession(t, "bob", time.Hour)

	db, err := w.dial(t, alice, "db")
	if err != nil {
		t.Fatalf("a database administrator is turned away: %v\n%s", err, w.agent.Log())
	}
	w.decision(t, w.line(t, "connection opened", "alice"), `"allow":true`)
	slow, err := w.dial(t, alice, "slow")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.dial(t, bob, "db"); err == nil {
		t.Fatal("somebody else is let in")
	}
	id := w.decision(t, w.line(t, "connection refused", "bob", "the policy engine does not allow it: not a database administrator"), `"allow":false`)
	if r := w.agent.MustCurfew(t, "events"); !strings.Contains(r.Stdout, "decision="+id) {
		t.Errorf("events do not have decision %s:\n%s", id, r.Stdout)
	}

	w.engine.Policy(t, nobody)
	harness.Eventually(t, "the new policy to count", func() error {
		if _, err := w.dial(t, alice, "db"); err == nil {
			return errors.New("alice is let in")
		}
		return nil
	})
	w.decision(t, w.line(t, "connection refused", "alice", "frozen for the night"), "frozen")
	if _, err := w.dial(t, alice, "slow"); err != nil {
		t.Errorf("a yes of less than an hour ago is forgotten: %v", err)
	}
	for name, c := range map[string]*tls.Conn{"db": db, "slow": slow} {
		if err := exchange(c); err != nil {
			t.Errorf("%s: a connection that nobody has asked about has ended: %v", name, err)
		}
	}
	harness.Signal(t, w.agent.EnforcerPID(), syscall.SIGHUP)
	for name, c := range map[string]*tls.Conn{"db": db, "slow": slow} {
		if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d bytes, %v, from a connection that is not allowed any longer", name, n, err)
		}
	}
	w.decision(t, w.line(t, "policy no longer allows a connection", "service=slow"), "frozen")

	w.engine.Policy(t, dbaOnly)
	harness.Eventually(t, "the old policy to count again", func() error {
		_, err := w.dial(t, alice, "db")
		return err
	})
	w.engine.Stop()
	harness.Eventually(t, "nobody to be let in without an engine", func() error {
		if _, err := w.dial(t, alice, "db"); err == nil {
			return errors.New("alice is let in")
		}
		return nil
	})
	w.line(t, "connection refused", "alice", "the policy engine gave no decision")
	for _, result := range []string{"allowed", "denied", "error", "cached"} {
		service := "db"
		if result == "cached" {
			service = "slow"
		}
		if want := fmt.Sprintf("curfew_policy_engine_answers_total{result=%q,service=%q}", result, service); !strings.Contains(w.counted(t), want) {
			t.Errorf("metrics do not have %s", want)
		}
	}
}
