// SPDX-License-Identifier: Apache-2.0

// Package peers starts the real servers that tests put behind Curfew, on loopback and on ports of their
// own: PostgreSQL, Redis, OpenSSH, a websocket that ticks. Each ends with the test that started
// it. A server that is not installed fails the test: test/scripts/setup.sh installs them.
package peers

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// patience is how long a server may take to answer: machines that run tests are slow at times.
const patience = 60 * time.Second

// Find returns the path of a program that may be outside of PATH; patterns are tried in order.
func Find(t testing.TB, patterns ...string) string {
	t.Helper()
	for _, p := range patterns {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
		if found, _ := filepath.Glob(p); len(found) > 0 { // the only error is a bad pattern
			return found[len(found)-1]
		}
	}
	t.Fatalf("none of %q is installed: run test/scripts/setup.sh", patterns)
	return ""
}

// FreePort returns a TCP port of 127.0.0.1 that was free a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Process is a program that runs until the test ends.
type Process struct {
	*exec.Cmd
	done chan struct{} // closed when it has exited

	mu  sync.Mutex
	out bytes.Buffer
}

// Start starts cmd and collects its output, which is logged if the test fails. It is killed, by
// pid, and waited for when the test ends.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p, p
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have exited
		<-p.done
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(cmd.Path), p.Output())
		}
	})
	return p
}

// Write collects output.
func (p *Process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// Output is what the process has printed so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// Exited is closed when the process is gone.
func (p *Process) Exited() <-chan struct{} { return p.done }

// WaitDial waits until addr accepts connections, or the process is gone.
func (p *Process) WaitDial(t testing.TB, addr string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-p.done:
			t.Fatalf("%s exited: %s", p.Path, p.Output())
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("%s does not listen on %s after %v", p.Path, addr, patience)
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
