// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// lines is a log that may be read while it is written.
type lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func openTunnel(t *testing.T, a *fakeAgent) (*Tunnel, *lines) {
	t.Helper()
	log := &lines{}
	tunnel, err := OpenTunnel(t.Context(), signedIn(t, a), "db", log)
	if err != nil {
		t.Fatal(err)
	}
	return tunnel, log
}

// serveTunnel serves on loopback until stop is called, which returns what Serve did.
func serveTunnel(t *testing.T, tunnel *Tunnel) (addr string, result <-chan error, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { done <- tunnel.Serve(ctx, l) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return l.Addr().String(), done, cancel
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func TestTunnelHalfCloseByTheUser(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	tunnel, _ := openTunnel(t, a)
	addr, _, stop := serveTunnel(t, tunnel)
	c := dial(t, addr)
	sent := make([]byte, 1<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("sent %d bytes and the end, got %d back: %v", len(sent), len(got), err)
	}
	a.mu.Lock()
	if len(a.sni) != 1 || a.sni[0] != "db" {
		t.Errorf("the agent saw SNI %q", a.sni)
	}
	a.mu.Unlock()
	stop()
}

func TestTunnelHalfCloseByTheService(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	heard := make(chan string, 1)
	a.serve = func(c *tls.Conn) {
		_, _ = c.Write([]byte("bye"))
		_ = c.CloseWrite()
		b, _ := io.ReadAll(c)
		heard <- string(b)
	}
	tunnel, _ := openTunnel(t, a)
	addr, _, _ := serveTunnel(t, tunnel)
	c := dial(t, addr)
	if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
		t.Errorf("got %q, %v", b, err)
	}
	_, _ = c.Write([]byte("still talking"))
	_ = c.CloseWrite()
	if got := <-heard; got != "still talking" {
		t.Errorf("the service heard %q", got)
	}
}

// TestTunnelSaysWhy keeps out what users hate most: a connection that drops without a word.
func TestTunnelSaysWhy(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	tunnel, _ := openTunnel(t, a)
	addr, result, _ := serveTunnel(t, tunnel)
	c := dial(t, addr)
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	a.kill("laptop stolen")
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the local connection is still open")
	}
	err := <-result
	var ended *EndedError
	if !errors.As(err, &ended) || ended.Reason != session.ReasonKilled || !strings.Contains(err.Error(), "laptop stolen") || ended.ExitCode() != ExitEnded {
		t.Errorf("Serve = %v", err)
	}
	var hint *api.Error
	if !errors.As(err, &hint) || !strings.Contains(hint.Hint, "curfew login") {
		t.Errorf("no hint in %v", err)
	}
	if _, err := OpenTunnel(t.Context(), tunnel.agent, "db", io.Discard); !errors.As(err, &ended) || ended.Reason != session.ReasonKilled {
		t.Errorf("the next tunnel: %v", err)
	}
}

// TestOldTunnelSparesTheNewKey: a tunnel of an older session learns of its end after the user has
// signed in anew. It wiped the new key, because that was the one in the store.
func TestOldTunnelSparesTheNewKey(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	tunnel, _ := openTunnel(t, a)
	addr, result, _ := serveTunnel(t, tunnel)
	c := dial(t, addr)
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	store := tunnel.agent.Store
	if err := store.SaveLogin(key, api.Session{ID: session.NewID(), State: api.StateLive}); err != nil {
		t.Fatal(err)
	}
	a.kill("the old one")
	var ended *EndedError
	if err := <-result; !errors.As(err, &ended) {
		t.Errorf("Serve = %v", err)
	}
	cert, err := store.LoadKey()
	if err != nil || session.KeyOf(cert.Leaf) != key.ID() {
		t.Errorf("the new key: %v", err)
	}
	if last, err := store.LoadSession(); err != nil || last.Ended != nil {
		t.Errorf("the new session: %+v, %v", last, err)
	}
}

func TestTunnelOutlivesABrokenConnection(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	tunnel, log := openTunnel(t, a)
	addr, _, _ := serveTunnel(t, tunnel)
	c := dial(t, addr)
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	a.reset() // the service broke it; the session lives
	_, _ = c.Read(make([]byte, 1))
	c = dial(t, addr)
	_, _ = c.Write([]byte("y"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("the next connection: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(log.String(), "db"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log says %q", log)
		}
	}
}

// TestTunnelUnknownKey also keeps a bare FIN, which crypto/tls takes for a good end, from
// passing for one.
func TestTunnelUnknownKey(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	tunnel, _ := openTunnel(t, a)
	a.mu.Lock()
	a.unknown = true
	a.mu.Unlock()
	a.serve = func(c *tls.Conn) { _ = c.NetConn().Close() }
	err := tunnel.Stdio(t.Context(), blocked(t), io.Discard)
	var ended *EndedError
	if !errors.As(err, &ended) || ended.Reason != session.ReasonUnknownKey {
		t.Errorf("Stdio = %v", err)
	}
}

// blocked is a standard input on which nothing happens until the test ends.
func blocked(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	return r
}

func TestStdio(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	tunnel, _ := openTunnel(t, a)
	var out lines
	if err := tunnel.Stdio(t.Context(), strings.NewReader("hello"), &out); err != nil || out.String() != "hello" {
		t.Errorf("Stdio: %q, %v", out.String(), err)
	}
}

func TestUnknownService(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	_, err := OpenTunnel(t.Context(), signedIn(t, a), "nothing", io.Discard)
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeNotFound || !strings.Contains(e.Hint, "db, cache") {
		t.Errorf("OpenTunnel: %v", err)
	}
}

// TestMain is also the command that TestRun runs.
func TestMain(m *testing.M) {
	switch os.Getenv("CURFEW_TEST_COMMAND") {
	case "talk":
		c, err := net.Dial("tcp", net.JoinHostPort(os.Args[1], os.Args[2]))
		if err != nil || os.Args[1] != os.Getenv("CURFEW_HOST") || os.Args[2] != os.Getenv("CURFEW_PORT") {
			os.Exit(90)
		}
		_, _ = c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			os.Exit(91)
		}
		_, _ = os.Stdout.WriteString("connected\n")
		if os.Args[3] == "wait" {
			_, _ = c.Read(make([]byte, 1)) // until it breaks
		}
		os.Exit(7)
	}
	os.Exit(m.Run())
}

func command(out io.Writer, args ...string) Command {
	return Command{Args: append([]string{os.Args[0], "{host}", "{port}"}, args...), Out: out, Err: io.Discard}
}

func TestRunPassesTheExitStatusOn(t *testing.T) {
	t.Setenv("CURFEW_TEST_COMMAND", "talk")
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	tunnel, _ := openTunnel(t, a)
	var status *CommandError
	if err := tunnel.Run(t.Context(), command(io.Discard, "go")); !errors.As(err, &status) || status.ExitCode() != 7 {
		t.Errorf("Run = %v; want the command's status", err)
	}
	if err := tunnel.Run(t.Context(), Command{Args: []string{"/nonexistent"}}); err == nil || errors.Is(err, exec.ErrNotFound) {
		t.Errorf("a command that is not there: %v", err)
	}
}

func TestRunSaysWhyTheSessionEnded(t *testing.T) {
	t.Setenv("CURFEW_TEST_COMMAND", "talk")
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	tunnel, log := openTunnel(t, a)
	r, w := io.Pipe()
	go func() {
		_, _ = io.ReadFull(r, make([]byte, len("connected")))
		a.kill("enough")
		_, _ = io.Copy(io.Discard, r)
	}()
	err := tunnel.Run(t.Context(), command(w, "wait"))
	_ = w.Close()
	var ended *EndedError
	if !errors.As(err, &ended) || ended.Reason != session.ReasonKilled {
		t.Errorf("Run = %v", err)
	}
	if !strings.Contains(log.String(), "enough") {
		t.Errorf("the log says %q", log)
	}
}
