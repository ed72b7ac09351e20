// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package lab makes hosts out of network namespaces, and networks between them, on one machine: for
// tests, and for the demo. A host is gone when nothing holds it any more: no name of it is left
// anywhere. It needs root and ip(8); loss needs nft(8).
//
// It knows nothing of curfew.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Host is a network namespace. Safe for concurrent use.
type Host struct{ *os.File }

// NewHost returns a host with nothing but a loopback interface. Close it after use.
func NewHost() (*Host, error) {
	h := &Host{}
	err := thread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		h.File, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	if err := h.IP("link set lo up"); err != nil {
		_ = h.Close() // the error at hand says more
		return nil, err
	}
	return h, nil
}

// Do runs fn on a thread of this host: the sockets and processes that it makes, itself and not in other
// goroutines, belong to the host.
func (h *Host) Do(fn func() error) error {
	return thread(func() error {
		if err := unix.Setns(int(h.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// thread runs fn on a thread that ends with it.
func thread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- fn()
	}()
	return <-done
}

// Listen opens a TCP listener on the host, without keepalive and without MPTCP.
func (h *Host) Listen(addr string) (l *net.TCPListener, err error) {
	bound, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	err = h.Do(func() error {
		lc := net.ListenConfig{KeepAlive: -1}
		lc.SetMultipathTCP(false)
		any, err := lc.Listen(context.Background(), "tcp", bound.String())
		if err == nil {
			l = any.(*net.TCPListener)
		}
		return err
	})
	return l, err
}

// Dial connects from the host, from one of its addresses unless from is empty. Keepalive is off: an end
// must come from the other side.
func (h *Host) Dial(from, to string, timeout time.Duration) (conn *net.TCPConn, err error) {
	d := net.Dialer{KeepAlive: -1, Timeout: timeout}
	d.SetMultipathTCP(false)
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	err = h.Do(func() error {
		c, err := d.Dial("tcp", to)
		if err == nil {
			conn = c.(*net.TCPConn)
		}
		return err
	})
	return conn, err
}

// IP runs commands of ip(8) on the host.
func (h *Host) IP(commands ...string) error {
	return h.batch("ip", []string{"-batch", "-"}, commands)
}

// batch runs a program that reads commands from standard input.
func (h *Host) batch(program string, args, commands []string) error {
	path, err := find(program)
	if err != nil {
		return err
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	return h.Do(func() error {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", program, strings.Join(commands, "; "), err, out)
		}
		return nil
	})
}

func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	path := "/usr/sbin/" + program
	if _, err := os.Stat(path); err != nil {
		return "", errors.New(program + " is not installed")
	}
	return path, nil
}
