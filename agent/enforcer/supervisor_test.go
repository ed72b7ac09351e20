// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/bpf"
)

func TestProxyRunsWithoutPrivilege(t *testing.T) {
	t.Parallel()
	status := newRig(t).ask(order{Do: "look"}).Caps
	for _, want := range []string{
		"Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "NoNewPrivs:\t1",
		"CapEff:\t0000000000000400", "CapPrm:\t0000000000000400", // CAP_NET_BIND_SERVICE
	} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in %s", want, status)
		}
	}
	if groups := strings.SplitAfter(status, "Groups:")[1]; strings.TrimSpace(strings.SplitN(groups, "\n", 2)[0]) != "" {
		t.Errorf("supplementary groups in %s", status)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.connect(1)[0]
	if !echoes(c) {
		t.Fatal("no echo")
	}
	pid := r.ask(order{Do: "look"}).PID
	r.cancel()
	r.stopped()
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("proxy process: %v", err)
	}
	cut(t, c)
}

func TestStubbornProxyIsKilledAfterDrainTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.DrainTimeout = 300 * time.Millisecond })
	c := r.connect(1)[0]
	r.ask(order{Do: "deaf"})
	r.cancel()
	r.stopped()
	cut(t, c)
}

func TestProxyIsRestarted(t *testing.T) {
	for how, end := range map[string]func(*rig, int){
		"kill -9":         func(r *rig, pid int) { signalTo(r.t, pid, unix.SIGKILL) },
		"exit":            func(r *rig, pid int) { r.ask(order{Do: "exit"}) },
		"garbled message": func(r *rig, pid int) { r.ask(order{Do: "garble"}) },
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			c := r.connect(1)[0]
			pid := r.ask(order{Do: "look"}).PID
			end(r, pid)
			cut(t, c)
			eventually(t, "old proxy is gone", func() bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) })
			// Session 1 is open again in the new one: the maps were cleared.
			if a := r.ask(order{Do: "look"}); a.PID == pid || len(a.Sockets) != 0 {
				t.Errorf("new proxy: %+v", a)
			}
			if !echoes(r.connect(1)[0]) {
				t.Error("the new proxy does not serve")
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	for i, want := range []time.Duration{0, 100, 200, 400, 800, 1600, 3200, 5000, 5000} {
		if got := b.next(time.Second); got != want*time.Millisecond {
			t.Errorf("restart %d after %v, want %v", i, got, want*time.Millisecond)
		}
	}
	if got := b.next(30 * time.Second); got != 0 {
		t.Errorf("after 30 healthy seconds: %v", got)
	}
}

// Layer 2 with the proxy stopped: the promise is 2.5 s.
func TestStoppedProxyIsSwept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.connect(1)[0]
	deadline := bpf.Now().Add(500 * time.Millisecond)
	r.ask(order{Do: "move", Deadline: deadline})
	pid := r.ask(order{Do: "look"}).PID
	signalTo(t, pid, unix.SIGSTOP)
	cut(t, c)
	if late := bpf.Now().Sub(deadline); late < 0 || late > 2500*time.Millisecond {
		t.Errorf("cut %v after the deadline", late)
	}
	signalTo(t, pid, unix.SIGCONT)
}

func TestHungProxyIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.HangTimeout = 1500 * time.Millisecond })
	c := r.connect(1)[0]
	pid := r.ask(order{Do: "look"}).PID
	r.ask(order{Do: "hang"})
	eventually(t, "silence is noticed", r.super.silent.Load)
	cut(t, c)
	eventually(t, "old proxy is gone", func() bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) })
	if !echoes(r.connect(1)[0]) {
		t.Error("the new proxy does not serve")
	}
	eventually(t, "silence is over", func() bool { return !r.super.silent.Load() })
}

// A proxy that takes a while, but comes back, is left alone.
func TestProxyMayRecover(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.connect(1)[0]
	r.ask(order{Do: "hang"})
	eventually(t, "silence is noticed", r.super.silent.Load)
	r.ask(order{Do: "unhang"})
	eventually(t, "silence is over", func() bool { return !r.super.silent.Load() })
	if !echoes(c) {
		t.Error("its connection was cut")
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ask(order{Do: "look"})
	r.super.Reload()
	eventually(t, "the proxy is told", func() bool { return r.ask(order{Do: "reloads"}).PID == 1 })
}

func TestServiceManagerIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "200000")
	r := newRig(t)
	expect := func(want string) {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second)) // a live socket
		for buf := make([]byte, 512); ; {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("no %q: %v", want, err)
			}
			if bytes.HasPrefix(buf[:n], []byte(want)) {
				return
			}
		}
	}
	expect("WATCHDOG=1")
	expect("READY=1")
	r.ask(order{Do: "status"})
	expect("STATUS=serving?1 user")
	r.super.Reload()
	expect("RELOADING=1\nMONOTONIC_USEC=")
	r.cancel()
	expect("STOPPING=1")
	r.stopped()
}

// Keeps out: a kill request brings the enforcer down where there is nothing to kill with.
func TestUserspaceKillIsAnswered(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Userspace = true })
	report := r.ask(order{Do: "kill", Sockets: strangerSockets(t, 1).names}).Report
	if report.Count(bpf.Failed) != 1 || report.Complete() {
		t.Errorf("outcomes %v", report.Outcomes)
	}
	r.cancel()
	r.stopped()
}

func TestConfigValidate(t *testing.T) {
	good := Config{BPF: bpf.Config{Instance: "a"}, UID: 1, GID: 1}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for what, spoil := range map[string]func(*Config){
		"root":     func(c *Config) { c.UID = 0 },
		"wheel":    func(c *Config) { c.GID = 0 },
		"instance": func(c *Config) { c.BPF.Instance = "../x" },
		"file":     func(c *Config) { c.Files = []File{{Name: "a,b", File: os.Stdin}} },
		"time":     func(c *Config) { c.DrainTimeout = -1 },
	} {
		c := good
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("accepted bad %s", what)
		}
	}
}

// testEnforcerMain is a whole enforcer process, to be killed.
func testEnforcerMain() error {
	s, err := New(Config{
		BPF: bpf.Config{Instance: os.Args[1]},
		Env: func() []string { return append(os.Environ(), roleVar+"=proxy") },
		UID: 65534, GID: 65534,
		Files: []File{{Name: "orders", File: os.NewFile(3, "orders")}},
		Log:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	return s.RunWithSignals(context.Background())
}

func startEnforcer(t *testing.T, instance string, orders *os.File) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", instance)
	cmd.Env = append(os.Environ(), roleVar+"=enforcer")
	cmd.ExtraFiles = []*os.File{orders}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // may have ended before
	return cmd
}

// The enforcer is killed while the proxy is stopped: the pinned gate goes on, and a new enforcer
// ends and replaces all that was left. SIGTERM then leaves nothing.
func TestKilledEnforcer(t *testing.T) {
	t.Parallel()
	r := &rig{t: t, instance: fmt.Sprintf("killed-%d-%d", os.Getpid(), instances.Add(1))}
	var theirs *os.File
	r.orders, theirs = socketpair(t)
	r.in = json.NewDecoder(r.orders)

	first := startEnforcer(t, r.instance, theirs)
	ended, living := r.connect(1)[0], r.connect(1)[0]
	pid := r.ask(order{Do: "look"}).PID
	signalTo(t, pid, unix.SIGSTOP)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // killed
	glass, err := bpf.OpenPinned(r.instance)
	if err != nil {
		t.Fatal(err)
	}
	defer glass.Close()
	if _, err := glass.End(func(s bpf.PinnedSession) bool { return s.Label.Subject == "alice" }); err != nil {
		t.Fatal(err)
	}
	cut(t, ended)
	cut(t, living)

	second := startEnforcer(t, r.instance, theirs)
	eventually(t, "old proxy is gone", func() bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) })
	if !echoes(r.connect(1)[0]) {
		t.Error("the new proxy does not serve")
	}
	signalTo(t, second.Process.Pid, unix.SIGHUP)
	eventually(t, "the proxy is told to reload", func() bool { return r.ask(order{Do: "reloads"}).PID == 1 })
	signalTo(t, second.Process.Pid, unix.SIGTERM)
	if err := second.Wait(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, r.instance)
}

// The enforcer is killed: a proxy that runs learns of it and stops.
func TestProxyStopsWithoutEnforcer(t *testing.T) {
	t.Parallel()
	r := &rig{t: t, instance: fmt.Sprintf("orphan-%d-%d", os.Getpid(), instances.Add(1))}
	var theirs *os.File
	r.orders, theirs = socketpair(t)
	r.in = json.NewDecoder(r.orders)
	first := startEnforcer(t, r.instance, theirs)
	pid := r.ask(order{Do: "look"}).PID
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // killed
	eventually(t, "the proxy is gone", func() bool { return gone(pid) })
	second := startEnforcer(t, r.instance, theirs)
	r.ask(order{Do: "look"})
	signalTo(t, second.Process.Pid, unix.SIGTERM)
	if err := second.Wait(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, r.instance)
}

// gone reports whether a process has ended, also if nobody has waited for it.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(after, "Z")
}
