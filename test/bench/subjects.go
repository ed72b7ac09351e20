// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/config"
)

// subject is a proxy to be measured.
type subject struct {
	name  string
	start func(context.Context, setup) (*target, error)
	ours  bool // not one of the peers
}

// subjects are all there are. The first is ours as shipped, the second ours without the kernel.
var subjects = []subject{
	{"curfew", startWith(config.EnforceKernel), true},
	{"no gate", startWith(config.EnforceUserspace), true},
	{"haproxy", startHAProxy, false},
	{"nginx", startNginx, false},
}

// setup is what a subject is started with.
type setup struct {
	dir      string // for configuration files
	upstream string
	pki      *pki
}

// target is a running subject.
type target struct {
	addr string // where it accepts TLS
	cmd  *exec.Cmd
	done chan error
}

// launch starts a subject's process.
func launch(addr string, cmd *exec.Cmd) (*target, error) {
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t := &target{addr: addr, cmd: cmd, done: make(chan error, 1)}
	go func() { t.done <- cmd.Wait() }()
	return t, nil
}

func (t *target) stop() {
	_ = t.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-t.done:
	case <-time.After(15 * time.Second):
		_ = t.cmd.Process.Kill()
		<-t.done
	}
}

// ready waits until the target relays.
func (t *target) ready(ctx context.Context, c *client) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := c.once()
		if err == nil {
			return nil
		}
		select {
		case exit := <-t.done:
			t.done <- exit
			return fmt.Errorf("ended: %w", errors.Join(exit, err))
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// pids are the target's processes: the one started and its children.
func (t *target) pids() []int {
	pid := t.cmd.Process.Pid
	pids := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range tasks {
		children, _ := os.ReadFile(file) // a task that ended has none
		for _, field := range strings.Fields(string(children)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// cpu is the processor time of all of the target's processes, to the nanosecond.
func (t *target) cpu() (time.Duration, error) {
	const cpuclockSched = 2 // the clock of a whole process, as clock_getcpuclockid(3) makes it
	var sum time.Duration
	for _, pid := range t.pids() {
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|cpuclockSched), &ts); err != nil {
			return 0, fmt.Errorf("processor time of %d: %w", pid, err)
		}
		sum += time.Duration(ts.Nano())
	}
	return sum, nil
}

// resident is the resident memory of all of the target's processes in KiB, without what they
// share with each other or with files.
func (t *target) resident() (int, error) {
	sum := 0
	for _, pid := range t.pids() {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(status), "RssAnon:")
		n, err := strconv.Atoi(strings.Fields(rest + " ?")[0])
		if err != nil {
			return 0, fmt.Errorf("RssAnon of %d: %w", pid, err)
		}
		sum += n
	}
	return sum, nil
}

// freeAddr is a loopback address that was free a moment ago.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func startHAProxy(ctx context.Context, s setup) (*target, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "haproxy.cfg")
	config := fmt.Sprintf(`
global
	nbthread 2
	maxconn 5000
defaults
	mode tcp
	timeout connect 5s
	timeout client 1h
	timeout server 1h
frontend in
	bind %s ssl crt %s ca-file %s verify required ssl-min-ver TLSv1.3 no-tls-tickets ciphersuites TLS_AES_128_GCM_SHA256
	default_backend out
backend out
	server upstream %s
`, addr, s.pki.serverBoth, s.pki.caFile, s.upstream)
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	return launch(addr, exec.CommandContext(ctx, "haproxy", "-db", "-f", file))
}

func startNginx(ctx context.Context, s setup) (*target, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "nginx.conf")
	module := "/usr/lib/nginx/modules/ngx_stream_module.so"
	config := fmt.Sprintf(`
load_module %s;
daemon off;
worker_processes 2;
error_log stderr error;
pid %s/nginx.pid;
events { worker_connections 10000; }
stream {
	server {
		listen %s ssl backlog=4096;
		ssl_certificate %s;
		ssl_certificate_key %s;
		ssl_client_certificate %s;
		ssl_verify_client on;
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		ssl_session_tickets off;
		proxy_timeout 1h;
		proxy_pass %s;
	}
}
`, module, s.dir, addr, s.pki.serverCert, s.pki.serverKey, s.pki.caFile, s.upstream)
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	return launch(addr, exec.CommandContext(ctx, "nginx", "-p", s.dir, "-c", file))
}
