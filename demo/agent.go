// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/control"
	"github.com/curfew-proxy/curfew/lab"
)

// readyPatience is how long an agent may take to start.
const readyPatience = 15 * time.Second

// agent is a real agent with a directory of its own.
type agent struct {
	dir     string
	cmd     *exec.Cmd     // nil until it was started
	exited  chan struct{} // closed when it has
	control *control.Client
}

func newAgent(dir string) *agent {
	a := &agent{dir: dir, exited: make(chan struct{})}
	a.control = control.NewClient(a.path("run/control.sock"))
	return a
}

// newDir makes a directory that an agent's user may pass through.
func newDir() (string, error) {
	dir, err := os.MkdirTemp("", "curfew-demo-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

func (a *agent) path(name string) string { return filepath.Join(a.dir, name) }

func (a *agent) configure(yaml string) error {
	return os.WriteFile(a.path("curfew.yaml"), []byte(yaml), 0o600)
}

// start starts the agent, on a host or, if that is nil, on this one, and waits until it serves and has
// no problems.
func (a *agent) start(ctx context.Context, host *lab.Host, args ...string) error {
	logFile, err := os.Create(a.path("agent.log"))
	if err != nil {
		return err
	}
	defer logFile.Close() // the agent has its own
	a.cmd = exec.Command("/proc/self/exe", append([]string{"agent", "--config", a.path("curfew.yaml"), "--log-format", "text"}, args...)...)
	a.cmd.Stdout, a.cmd.Stderr = logFile, logFile
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo, which then ends the agent
	run := a.cmd.Start
	if host != nil {
		run = func() error { return host.Do(a.cmd.Start) }
	}
	if err := run(); err != nil {
		a.cmd = nil
		return fmt.Errorf("start the agent: %w", err)
	}
	go func() {
		_ = a.cmd.Wait() // how it ended is in its log
		close(a.exited)
	}()
	return a.waitReady(ctx)
}

func (a *agent) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	for {
		status, err := a.control.Status(ctx)
		if err == nil && status.Ready && len(status.Problems) == 0 {
			return nil
		}
		select {
		case <-a.exited:
			return a.failed("the agent does not start")
		case <-ctx.Done():
			return a.failed(fmt.Sprintf("the agent is not ready: %v %v", err, status.Problems))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// failed is an error with the end of the agent's log.
func (a *agent) failed(what string) error {
	body, _ := os.ReadFile(a.path("agent.log")) // empty if there is none
	lines := strings.Split(strings.TrimSpace(string(body)), "\n")
	return &api.Error{Message: what + ":\n" + strings.Join(lines[max(0, len(lines)-8):], "\n"), Hint: "run as root, and see: curfew doctor"}
}

// stop ends the agent in order, if it was started.
func (a *agent) stop() error {
	if a.cmd == nil {
		return nil
	}
	for range 2 { // the second does not wait for connections
		_ = a.cmd.Process.Signal(syscall.SIGTERM) // it may have exited
		select {
		case <-a.exited:
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
	select {
	case <-a.exited:
		return nil
	case <-time.After(readyPatience):
		_ = a.cmd.Process.Kill() // the error says so
		<-a.exited
		return errors.New("the agent does not stop; it is killed")
	}
}

// proxyPID is the agent's unprivileged process.
func (a *agent) proxyPID() (int, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", a.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for _, task := range tasks { // a child belongs to the thread that started it
		body, _ := os.ReadFile(task) // the thread may be gone
		if fields := strings.Fields(string(body)); len(fields) > 0 {
			return strconv.Atoi(fields[0])
		}
	}
	return 0, errors.New("the agent has no proxy process")
}
