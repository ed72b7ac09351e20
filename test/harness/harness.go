// SPDX-License-Identifier: Apache-2.0

// Package harness runs the real agent for tests: the built program, both processes, the kernel's
// enforcement, on loopback. What a test starts ends with it, and a test fails if an agent that was
// stopped in order leaves pins, cgroups or processes behind.
package harness

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/control"
	"github.com/curfew-proxy/curfew/test/peers"
)

// Patience is how long things may take that are a matter of milliseconds on an idle machine.
const Patience = 60 * time.Second

// Config is the agent's configuration, but for what the harness fills in.
type Config struct {
	// Services is the YAML below "services:", indented by two spaces.
	Services string
	// Extra is more YAML at the top level.
	Extra string
	// Gateway is its address; empty for a free port of 127.0.0.1.
	Gateway string
	// Netns is the network namespace that the agent runs in; nil: the test's own. Set by Start.
	Netns *os.File
	// Args are more arguments for the agent.
	Args []string
	// Under is a program that runs the agent by exec, with its arguments: ip netns exec, env.
	Under []string
}

// Agent is a running agent.
type Agent struct {
	Name    string // of the instance
	Dir     string // its own directory: configuration, state, run
	Gateway string // host:port
	Socket  string // the control socket
	Control *control.Client

	under []string
	// Args are more arguments; Run and Launch take them.
	Args  []string
	netns *os.File
	proc  *peers.Process
}

// Start starts an agent and waits until it serves. It is stopped, in order, when the test ends.
func Start(t testing.TB, c Config) *Agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "curfew-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // the proxy's user passes through to its state
		t.Fatal(err)
	}
	a := &Agent{
		Name: "test-" + strings.ToLower(rand.Text()[:8]), Dir: dir,
		Gateway: c.Gateway, Socket: filepath.Join(dir, "run", "control.sock"),
	}
	if a.Gateway == "" {
		a.Gateway = fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	}
	a.netns, a.under, a.Args = c.Netns, c.Under, c.Args
	a.Control = control.NewClient(a.Socket)
	a.Configure(t, c)
	a.Run(t)
	return a
}

// Configure writes the configuration; Reload takes it into service.
func (a *Agent) Configure(t testing.TB, c Config) {
	t.Helper()
	body := fmt.Sprintf("name: %s\nlisten: [%s]\nurl: https://%s\nstate: %s/state\nrun: %s/run\nuser: nobody\n%s\nservices:\n%s",
		a.Name, a.Gateway, a.Gateway, a.Dir, a.Dir, c.Extra, c.Services)
	if err := os.WriteFile(a.ConfigPath(), []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ConfigPath is the configuration file.
func (a *Agent) ConfigPath() string { return filepath.Join(a.Dir, "curfew.yaml") }

// State is the state directory.
func (a *Agent) State() string { return filepath.Join(a.Dir, "state") }

// Run starts the processes of an agent that is configured and not running, and waits until it serves.
// It is stopped, in order, when the test ends.
func (a *Agent) Run(t testing.TB) {
	t.Helper()
	a.Launch(t)
	a.WaitReady(t)
}

// Launch is Run without the wait.
func (a *Agent) Launch(t testing.TB) {
	t.Helper()
	args := append(append([]string{}, a.under...), Binary(t), "agent", "--config", a.ConfigPath(), "--log-format", "text", "--log-level", "debug")
	args = append(args, a.Args...)
	cmd := exec.Command(args[0], args[1:]...)
	a.proc = a.start(t, cmd)
	t.Cleanup(func() { a.Stop(t) }) // before the process would be killed
}

// start starts cmd in the agent's network namespace, which it inherits from the thread.
func (a *Agent) start(t testing.TB, cmd *exec.Cmd) *peers.Process {
	t.Helper()
	if a.netns == nil {
		return peers.Start(t, cmd)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if err := unix.Setns(int(a.netns.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatalf("enter network namespace: %v", err)
	}
	defer func() {
		if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("leave network namespace: %v", err)) // other tests would run in it
		}
	}()
	return peers.Start(t, cmd)
}

// WaitReady waits until the agent serves.
func (a *Agent) WaitReady(t testing.TB) {
	t.Helper()
	Eventually(t, "the agent to be ready", func() error {
		select {
		case <-a.proc.Exited():
			t.Fatalf("the agent exited:\n%s", a.Log())
		default:
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s, err := a.Control.Status(ctx)
		if err == nil && !s.Ready {
			err = fmt.Errorf("not ready: %v", s.Problems)
		}
		return err
	})
}

// Log is what the agent has logged so far.
func (a *Agent) Log() string { return a.proc.Output() }

// EnforcerPID is the privileged process.
func (a *Agent) EnforcerPID() int { return a.proc.Process.Pid }

// ProxyPID is the unprivileged process of the moment.
func (a *Agent) ProxyPID(t testing.TB) int {
	t.Helper()
	var pid int
	Eventually(t, "a proxy process", func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", a.EnforcerPID(), a.EnforcerPID()))
		if err != nil {
			return err
		}
		all := strings.Fields(string(children))
		if tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", a.EnforcerPID())); len(all) == 0 {
			for _, task := range tasks { // a child belongs to the thread that started it
				b, _ := os.ReadFile(task) // the thread may be gone
				all = append(all, strings.Fields(string(b))...)
			}
		}
		if len(all) != 1 {
			return fmt.Errorf("children of the enforcer: %v", all)
		}
		pid, err = strconv.Atoi(all[0])
		return err
	})
	return pid
}

// Signal sends a signal to one of the agent's processes.
func Signal(t testing.TB, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("signal %v to process %d: %v", sig, pid, err)
	}
}

// Stop ends the agent in order and checks that nothing of it is left. It may be called twice.
func (a *Agent) Stop(t testing.TB) {
	t.Helper()
	select {
	case <-a.proc.Exited():
		return
	default:
	}
	proxy := a.ProxyPID(t)
	for _, pid := range []int{a.EnforcerPID(), proxy} {
		_ = syscall.Kill(pid, syscall.SIGCONT) // a test may have stopped it
	}
	for range 2 { // the second does not wait for connections
		_ = a.proc.Process.Signal(syscall.SIGTERM)
		select {
		case <-a.proc.Exited():
		case <-time.After(300 * time.Millisecond):
		}
	}
	select {
	case <-a.proc.Exited():
	case <-time.After(Patience):
		t.Errorf("the agent does not stop")
		return
	}
	a.CheckNothingLeft(t, proxy)
}

// Kill ends the privileged process at once, as an accident would.
func (a *Agent) Kill(t testing.TB) {
	t.Helper()
	Signal(t, a.EnforcerPID(), syscall.SIGKILL)
	<-a.proc.Exited()
}

// WaitExit waits until the agent has ended by itself.
func (a *Agent) WaitExit(t testing.TB) {
	t.Helper()
	select {
	case <-a.proc.Exited():
	case <-time.After(Patience):
		t.Fatalf("the agent does not end")
	}
}

// CheckNothingLeft fails the test if pins, cgroups or processes of the agent are left.
func (a *Agent) CheckNothingLeft(t testing.TB, pids ...int) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/bpf/curfew/" + a.Name, "/sys/fs/cgroup/*" + a.Name + "*", "/sys/fs/cgroup/*/*" + a.Name + "*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 { // the only error is a bad pattern
			t.Errorf("left behind: %v", left)
		}
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d is left", pid)
		}
	}
}

// Result is a finished curfew command.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Curfew runs the program against this agent.
func (a *Agent) Curfew(t testing.TB, args ...string) Result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Binary(t), args...)
	cmd.Env = append(os.Environ(), "CURFEW_SOCKET="+a.Socket)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("curfew %v: %v", args, err)
	}
	return Result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// MustCurfew is Curfew for commands that must succeed.
func (a *Agent) MustCurfew(t testing.TB, args ...string) Result {
	t.Helper()
	r := a.Curfew(t, args...)
	if r.Code != 0 {
		t.Fatalf("curfew %v: status %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
	}
	return r
}

// Kill request over the control socket, as JSON.
func (a *Agent) KillJSON(t testing.TB, args ...string) (api.KillResult, Result) {
	t.Helper()
	r := a.Curfew(t, append([]string{"kill", "-o", "json"}, args...)...)
	var k api.KillResult
	if err := json.Unmarshal([]byte(r.Stdout), &k); err != nil {
		t.Fatalf("kill %v: %v\n%+v", args, err, r)
	}
	return k, r
}

// Credentials are the files that "sessions create" writes.
type Credentials struct{ Cert, Key, CA string }

// CreateSession makes a session on the control socket.
func (a *Agent) CreateSession(t testing.TB, subject string, ttl time.Duration, more ...string) (api.SessionInfo, Credentials) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "creds")
	r := a.MustCurfew(t, append([]string{"sessions", "create", "--subject", subject, "--ttl", ttl.String(), "--out", dir, "-o", "json"}, more...)...)
	var made api.SessionInfo
	if err := json.Unmarshal([]byte(r.Stdout), &made); err != nil || made.ID.IsZero() {
		t.Fatalf("sessions create: %v\n%s", err, r.Stdout)
	}
	return made, Credentials{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")}
}

// TLS is a client's configuration with these credentials.
func (c Credentials) TLS(t testing.TB, serverName string, alpn ...string) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(c.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, ServerName: serverName, NextProtos: alpn, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, // the name is a service's, not the certificate's; VerifyConnection checks the rest
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots})
			return err
		},
	}
}

// Eventually waits until f returns nil.
func Eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s: %v", Patience, what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
