// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/bpf"
)

var instances atomic.Int64

// rig is a supervisor with the test proxy, and the line to give it orders.
type rig struct {
	t        testing.TB
	instance string
	super    *Supervisor
	cancel   func()
	done     chan error
	orders   *os.File // the test's end
	in       *json.Decoder
}

func newConfig(t testing.TB, instance string, orders *os.File) Config {
	return Config{
		BPF: bpf.Config{Instance: instance},
		Env: func() []string { return append(os.Environ(), roleVar+"=proxy") },
		UID: 65534, GID: 65534,
		Files: []File{{Name: "orders", File: orders}},
		Log:   quiet(t),
	}
}

func socketpair(t testing.TB) (mine, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// A proxy that does not answer fails the test, rather than hanging it.
	if err := unix.SetsockoptTimeval(fds[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		t.Fatal(err)
	}
	mine, theirs = os.NewFile(uintptr(fds[0]), "orders"), os.NewFile(uintptr(fds[1]), "orders")
	t.Cleanup(func() { mine.Close(); theirs.Close() })
	return mine, theirs
}

func newRig(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, instance: fmt.Sprintf("super-%d-%d", os.Getpid(), instances.Add(1)), done: make(chan error, 1)}
	var theirs *os.File
	r.orders, theirs = socketpair(t)
	r.in = json.NewDecoder(r.orders)
	cfg := newConfig(t, r.instance, theirs)
	for _, c := range change {
		c(&cfg)
	}
	var err error
	if r.super, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.done <- r.super.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if r.done != nil {
			r.stopped()
		}
	})
	return r
}

// stopped waits for Run and checks that nothing is left behind.
func (r *rig) stopped() {
	r.t.Helper()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("run: %v", err)
		}
	case <-time.After(20 * time.Second):
		r.t.Fatal("supervisor does not stop")
	}
	r.done = nil
	nothingLeft(r.t, r.instance)
}

func nothingLeft(t testing.TB, instance string) {
	t.Helper()
	root, err := bpf.CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"/sys/fs/bpf/curfew/" + instance, root + "/curfew-" + instance} {
		if left, _ := filepath.Glob(pattern); left != nil {
			t.Errorf("left behind: %v", left)
		}
	}
}

// ask gives the proxy an order, whichever process is the proxy by now.
func (r *rig) ask(o order) answer {
	r.t.Helper()
	if err := json.NewEncoder(r.orders).Encode(o); err != nil {
		r.t.Fatal(err)
	}
	var a answer
	if err := r.in.Decode(&a); err != nil {
		r.t.Fatal(err)
	}
	if a.Err != "" {
		r.t.Fatalf("%s: %s", o.Do, a.Err)
	}
	return a
}

// connect opens n connections to the proxy, and waits until they are tagged.
func (r *rig) connect(n int) []*net.TCPConn {
	r.t.Helper()
	before := r.ask(order{Do: "look"})
	conns := dial(r.t, before.Addr, n)
	eventually(r.t, "connections are tagged", func() bool {
		return len(r.ask(order{Do: "look"}).Sockets) == len(before.Sockets)+n
	})
	return conns
}

func dial(t testing.TB, addr string, n int) []*net.TCPConn {
	t.Helper()
	conns := make([]*net.TCPConn, n)
	for i := range conns {
		c, err := net.Dial("tcp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns[i] = c.(*net.TCPConn)
	}
	return conns
}

func echoes(c *net.TCPConn) bool {
	_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond)) // fails on a dead socket, as the write will
	if _, err := c.Write([]byte{1}); err != nil {
		return false
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err == nil
}

// cut waits until c is reset, and returns how long that took.
func cut(t testing.TB, c *net.TCPConn) time.Duration {
	t.Helper()
	start := time.Now()
	_ = c.SetReadDeadline(start.Add(15 * time.Second)) // fails on a dead socket, as the read will
	_, err := io.Copy(io.Discard, c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("connection is not cut")
	}
	return time.Since(start)
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 15s: %s", what)
		}
	}
}

func signalTo(t testing.TB, pid int, s unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}
