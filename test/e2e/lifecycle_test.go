// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the whole of Curfew: the built program, both processes, the kernel, real clients.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/peers"
)

// rig is an agent with one service in front of an echo server.
type rig struct {
	*harness.Agent
	echo *echo
	addr string // of the service
}

func newRig(t *testing.T, extra string) *rig {
	t.Helper()
	r := &rig{echo: startEcho(t), addr: fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))}
	r.Agent = harness.Start(t, harness.Config{Services: service("echo", r.addr, r.echo.addr, ""), Extra: extra})
	return r
}

// metrics reads the Prometheus metrics on the control socket.
func (r *rig) metrics(t *testing.T) string {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", r.Socket)
	}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get("http://curfew/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("metrics: %s, %v", resp.Status, err)
	}
	return string(body)
}

// A service's own limit ends the connection, in the kernel, and not the session.
func TestServiceLimit(t *testing.T) {
	e := startEcho(t)
	addr := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	a := harness.Start(t, harness.Config{Services: service("echo", addr, e.addr, ", absolute_timeout: 1s")})
	_, creds := a.CreateSession(t, "alice", time.Hour)
	mustEnd(t, mustConnect(t, addr, creds))
	mustConnect(t, addr, creds)
	harness.Eventually(t, "the reason to be logged", func() error {
		if !strings.Contains(a.Log(), "reason=service-limit") {
			return errors.New("it is not")
		}
		return nil
	})
}

func TestKillCutsBothEndsAndProvesIt(t *testing.T) {
	r := newRig(t, "")
	_, alice := r.CreateSession(t, "alice", time.Hour)
	_, bob := r.CreateSession(t, "bob", time.Hour)
	victims := []net.Conn{mustConnect(t, r.addr, alice), mustConnect(t, r.addr, alice)}
	bystander := mustConnect(t, r.addr, bob)
	k, res := r.KillJSON(t, "--subject", "alice", "--reason", "laptop stolen")
	if res.Code != 0 || !k.Verified || k.Destroyed+k.Gone != 2 || k.Left != 0 || len(k.Sessions) != 1 {
		t.Fatalf("kill: %+v %+v", k, res)
	}
	for _, c := range victims {
		mustEnd(t, c)
		if err := <-r.echo.ends; err == nil {
			t.Error("the upstream saw an orderly end, want a reset")
		}
	}
	if err := roundTrip(bystander); err != nil {
		t.Errorf("another session's connection was harmed: %v", err)
	}
	mustRefuse(t, r.addr, alice)
	harness.Eventually(t, "the refusal to be logged", func() error {
		if !strings.Contains(r.Log(), "laptop stolen") {
			return fmt.Errorf("the log does not say why")
		}
		return nil
	})
}

func TestAbsoluteDeadline(t *testing.T) {
	r := newRig(t, "")
	_, creds := r.CreateSession(t, "alice", 1500*time.Millisecond)
	conn := mustConnect(t, r.addr, creds)
	mustEnd(t, conn)
	mustRefuse(t, r.addr, creds)
}

func TestIdleDeadline(t *testing.T) {
	r := newRig(t, "")
	_, creds := r.CreateSession(t, "alice", time.Hour, "--idle", "1s")
	busy := mustConnect(t, r.addr, creds)
	quiet := mustConnect(t, r.addr, creds)
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if err := roundTrip(busy); err != nil {
			t.Fatalf("an active session was cut: %v", err)
		}
	}
	if err := roundTrip(quiet); err != nil {
		t.Fatalf("the idle time is the session's, not the connection's: %v", err)
	}
	mustEnd(t, busy)
	mustEnd(t, quiet)
}

// Whose payload counts is the operator's choice: an upstream that talks by itself keeps a session alive
// with "both", and does not with "client", the default.
func TestIdleCounts(t *testing.T) {
	for _, counts := range []string{"client", "both"} {
		t.Run(counts, func(t *testing.T) {
			const chatter = 3 * time.Second
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				for until := time.Now().Add(chatter); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
					if _, err := conn.Write([]byte(".")); err != nil {
						return
					}
				}
				_, _ = io.Copy(io.Discard, conn) // silent from here on
			}()
			addr := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
			a := harness.Start(t, harness.Config{Services: service("chatter", addr, l.Addr().String(), ", idle_counts: "+counts)})
			_, creds := a.CreateSession(t, "alice", time.Hour, "--idle", "1s")
			conn, err := dialTLS(t, addr, creds)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			mustEnd(t, conn)
			if lasted := time.Since(began); (lasted > chatter) != (counts == "both") {
				t.Errorf("the session lasted %v beside an upstream that talked for %v", lasted, chatter)
			}
		})
	}
}

// What a session was told survives both kinds of restart, and what ended stays ended.
func TestRestartKeepsSessionsAndEnds(t *testing.T) {
	for _, how := range []string{"in order", "killed"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t, "")
			_, alive := r.CreateSession(t, "alice", time.Hour)
			_, killed := r.CreateSession(t, "bob", time.Hour)
			mustConnect(t, r.addr, alive)
			if _, res := r.KillJSON(t, "--subject", "bob"); res.Code != 0 {
				t.Fatalf("%+v", res)
			}
			if how == "in order" {
				r.Stop(t)
			} else {
				r.Kill(t)
			}
			r.Run(t)
			mustConnect(t, r.addr, alive)
			mustRefuse(t, r.addr, killed)
		})
	}
}

// The proxy process dies: its connections end, it is started again, sign-ins go on.
func TestProxyKilled(t *testing.T) {
	r := newRig(t, "")
	_, creds := r.CreateSession(t, "alice", time.Hour)
	conn := mustConnect(t, r.addr, creds)
	old := r.ProxyPID(t)
	harness.Signal(t, old, syscall.SIGKILL)
	mustClose(t, conn)
	harness.Eventually(t, "a new proxy process", func() error {
		if r.ProxyPID(t) == old {
			return fmt.Errorf("still the old one")
		}
		return nil
	})
	r.WaitReady(t)
	mustConnect(t, r.addr, creds)
}

// With the proxy stopped the deadline still ends connections, and kill --local still kills; when it
// wakes up it brings nothing back.
func TestProxyStopped(t *testing.T) {
	r := newRig(t, "")
	_, short := r.CreateSession(t, "short", 2*time.Second)
	_, alice := r.CreateSession(t, "alice", time.Hour)
	_, quiet := r.CreateSession(t, "quiet", time.Hour) // never had a connection
	conns := []net.Conn{mustConnect(t, r.addr, short), mustConnect(t, r.addr, alice)}
	proxy := r.ProxyPID(t)
	harness.Signal(t, proxy, syscall.SIGSTOP)
	mustEnd(t, conns[0])
	if res := r.Curfew(t, "kill", "--local", "--all", "--run", filepath.Join(r.Dir, "run")); res.Code != 0 {
		t.Fatalf("kill --local: %+v", res)
	}
	mustEnd(t, conns[1])
	harness.Signal(t, proxy, syscall.SIGCONT)
	r.WaitReady(t)
	harness.Eventually(t, "the metrics to tell of it", func() error {
		text := r.metrics(t)
		for _, none := range []string{"curfew_heartbeats_missing_total 0\n", "curfew_sockets_swept_total 0\n", "curfew_sweeps_total 0\n"} {
			if strings.Contains(text, none) {
				return errors.New(none)
			}
		}
		return nil
	})
	for _, creds := range []harness.Credentials{short, alice, quiet} {
		mustRefuse(t, r.addr, creds)
	}
	r.Stop(t)
	r.Run(t)
	for _, creds := range []harness.Credentials{short, alice, quiet} {
		mustRefuse(t, r.addr, creds)
	}
}

// Word of a kill that nobody was there to hear is heeded by the next start.
func TestLocalKillWhileTheProxyIsDown(t *testing.T) {
	r := newRig(t, "")
	_, creds := r.CreateSession(t, "alice", time.Hour)
	harness.Signal(t, r.ProxyPID(t), syscall.SIGSTOP)
	if res := r.Curfew(t, "kill", "--local", "--subject", "alice", "--run", filepath.Join(r.Dir, "run")); res.Code != 0 {
		t.Fatalf("kill --local: %+v", res)
	}
	r.Kill(t) // neither process gets to read it
	r.Run(t)
	mustRefuse(t, r.addr, creds)
}

// The enforcer is killed: the proxy does not go on without it.
func TestEnforcerKilled(t *testing.T) {
	r := newRig(t, "")
	_, creds := r.CreateSession(t, "alice", time.Hour)
	conn := mustConnect(t, r.addr, creds)
	proxy := r.ProxyPID(t)
	r.Kill(t)
	mustClose(t, conn)
	harness.Eventually(t, "the proxy process to stop", func() error {
		if syscall.Kill(proxy, 0) == nil {
			return fmt.Errorf("it runs without an enforcer")
		}
		return nil
	})
	r.Run(t)
	mustConnect(t, r.addr, creds)
}

func TestDamagedSessionFile(t *testing.T) {
	r := newRig(t, "")
	_, creds := r.CreateSession(t, "alice", time.Hour)
	r.Stop(t)
	path := filepath.Join(r.State(), "sessions.db")
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range body[:len(body)/2] {
		body[i] ^= 0x55
	}
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	res := r.Curfew(t, "agent", "--config", r.ConfigPath())
	if res.Code == 0 || !strings.Contains(res.Stderr, "the session file is damaged") || !strings.Contains(res.Stderr, "Move the file away") {
		t.Fatalf("a damaged session file: status %d\n%s", res.Code, res.Stderr)
	}
	r.CheckNothingLeft(t)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r.Run(t)
	mustRefuse(t, r.addr, creds)
}

// What is none of Curfew's business survives a kill of everything: sockets of other processes, and the
// proxy's own that belong to no session.
func TestKillAllSparesTheRest(t *testing.T) {
	r := newRig(t, "")
	other, err := net.Dial("tcp", r.echo.addr) // past the agent
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := roundTrip(other); err != nil {
		t.Fatal(err)
	}
	_, creds := r.CreateSession(t, "alice", time.Hour)
	conn := mustConnect(t, r.addr, creds)
	unauthenticated, err := net.Dial("tcp", r.Gateway) // untagged, in the proxy process
	if err != nil {
		t.Fatal(err)
	}
	defer unauthenticated.Close()
	if k, res := r.KillJSON(t, "--all"); res.Code != 0 || k.Destroyed+k.Gone != 1 {
		t.Fatalf("%+v %+v", k, res)
	}
	if res := r.Curfew(t, "kill", "--local", "--all", "--run", filepath.Join(r.Dir, "run")); res.Code == 3 {
		t.Fatalf("kill --local: %+v", res)
	}
	mustEnd(t, conn)
	if err := roundTrip(other); err != nil {
		t.Errorf("a stranger's connection was harmed: %v", err)
	}
	// The agent still speaks on the untagged connection: half a handshake is answered by its time limit, a
	// reset would come at once.
	if _, err := unauthenticated.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		t.Errorf("an untagged connection of the proxy was harmed: %v", err)
	}
	_, creds = r.CreateSession(t, "alice", time.Hour)
	mustConnect(t, r.addr, creds) // the listener lives
}

// Connections that ended just before they are killed must not cost the listener its life: a
// SOCK_DESTROY whose tuple is gone falls back to the listening socket unless it names a cookie.
func TestStaleKillsSpareTheListener(t *testing.T) {
	r := newRig(t, "")
	for i := range 40 {
		_, creds := r.CreateSession(t, fmt.Sprintf("u%d", i), time.Hour)
		for range 25 {
			conn := mustConnect(t, r.addr, creds)
			go conn.Close() // races with the kill
		}
		if res := r.Curfew(t, "kill", "--subject", fmt.Sprintf("u%d", i)); res.Code != 0 {
			t.Fatalf("kill %d: %+v", i, res)
		}
	}
	_, creds := r.CreateSession(t, "last", time.Hour)
	mustConnect(t, r.addr, creds)
}

func TestReload(t *testing.T) {
	r := newRig(t, "")
	_, creds := r.CreateSession(t, "alice", time.Hour)
	conn := mustConnect(t, r.addr, creds)
	second := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	r.Configure(t, harness.Config{Services: service("echo", r.addr, r.echo.addr, "") + service("more", second, r.echo.addr, "")})
	harness.Signal(t, r.EnforcerPID(), syscall.SIGHUP)
	harness.Eventually(t, "the new service", func() error {
		c, err := net.Dial("tcp", second)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err := roundTrip(conn); err != nil {
		t.Fatalf("a reload harmed a live connection: %v", err)
	}
	mustConnect(t, second, creds)
	// A policy that no longer allows it ends the connection, not the session.
	r.Configure(t, harness.Config{Services: strings.Replace(service("echo", r.addr, r.echo.addr, ""), "'true'", "'false'", 1) + service("more", second, r.echo.addr, "")})
	harness.Signal(t, r.EnforcerPID(), syscall.SIGHUP)
	mustEnd(t, conn)
	mustConnect(t, second, creds)
	// A mistake leaves everything as it is, and is named.
	r.Configure(t, harness.Config{Services: service("echo", r.addr, r.echo.addr, ", protokol: tcp")})
	harness.Signal(t, r.EnforcerPID(), syscall.SIGHUP)
	harness.Eventually(t, "the mistake to be logged", func() error {
		if !strings.Contains(r.Log(), "protokol") {
			return fmt.Errorf("the log does not name it")
		}
		return nil
	})
	mustConnect(t, second, creds)
}

// A session whose proxy drains is not cut before the drain timeout.
func TestDrain(t *testing.T) {
	r := newRig(t, "limits: {drain_timeout: 30s}")
	_, creds := r.CreateSession(t, "alice", time.Hour)
	conn := mustConnect(t, r.addr, creds)
	harness.Signal(t, r.EnforcerPID(), syscall.SIGTERM)
	harness.Eventually(t, "the listener to close", func() error {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			c.Close()
			return fmt.Errorf("it accepts")
		}
		return nil
	})
	if err := roundTrip(conn); err != nil {
		t.Fatalf("a connection was cut while draining: %v", err)
	}
	conn.Close()
	r.WaitExit(t)
	r.CheckNothingLeft(t)
}
