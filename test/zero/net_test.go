// SPDX-License-Identifier: Apache-2.0

//go:build linux

package zero

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/test/peers"
)

// The three hosts, and the two links between them:
//
//	client 10.88.1.x -- 10.88.1.254 agent 10.88.2.254 -- 10.88.2.1 upstream
//	       fd88:1::x -- fd88:1::fe        fd88:2::fe  -- fd88:2::1
var (
	agentAddr    = map[int]string{4: "10.88.1.254", 6: "fd88:1::fe"}
	upstreamAddr = map[int]string{4: "10.88.2.1", 6: "fd88:2::1"}
)

// clientAddrs is how many addresses the client's host has in each family: one for every live session,
// for a plain listener tells sessions apart by them.
const clientAddrs = 200

func clientAddr(family, n int) netip.Addr {
	n = 1 + n%clientAddrs
	if family == 4 {
		return netip.AddrFrom4([4]byte{10, 88, 1, byte(n)})
	}
	return netip.MustParseAddr(fmt.Sprintf("fd88:1::1:%x", n))
}

// host is a network namespace, gone when nothing is in it any more.
type host struct{ *os.File }

// network makes the three hosts.
func network(t *testing.T) (client, agent, upstream host) {
	t.Helper()
	client, agent, upstream = newHost(t), newHost(t), newHost(t)
	link(t, client, agent, "client")
	link(t, agent, upstream, "upstream")
	var addresses []string
	for n := range clientAddrs {
		for _, family := range families {
			addresses = append(addresses, clientAddr(family, n).String())
		}
	}
	client.addresses(t, "client0", addresses...)
	agent.addresses(t, "client1", agentAddr[4], agentAddr[6])
	agent.addresses(t, "upstream0", "10.88.2.254", "fd88:2::fe")
	upstream.addresses(t, "upstream1", upstreamAddr[4], upstreamAddr[6])
	return client, agent, upstream
}

func newHost(t *testing.T) host {
	t.Helper()
	var h host
	err := thread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			h.File, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	})
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() { h.Close() })
	h.ip(t, "link set lo up")
	return h
}

// link joins two hosts: NAME0 on a, NAME1 on b.
func link(t *testing.T, a, b host, name string) {
	t.Helper()
	a.ip(t, fmt.Sprintf("link add %s0 type veth peer name %s1 netns /proc/%d/fd/%d", name, name, os.Getpid(), b.Fd()), "link set "+name+"0 up")
	b.ip(t, "link set "+name+"1 up")
}

func (h host) addresses(t *testing.T, dev string, list ...string) {
	t.Helper()
	var commands []string
	for _, a := range list {
		bits := "/24"
		if strings.Contains(a, ":") {
			bits = "/64 nodad" // nobody else is there
		}
		commands = append(commands, fmt.Sprintf("address add %s%s dev %s", a, bits, dev))
	}
	h.ip(t, commands...)
}

// ip runs commands of ip(8) on the host.
func (h host) ip(t *testing.T, commands ...string) {
	t.Helper()
	cmd := exec.Command(peers.Find(t, "ip", "/sbin/ip"), "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n"))
	err := h.do(func() error {
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("ip %s: %v", commands[0], err)
	}
}

// do runs fn on a thread of this host: the sockets that it makes, itself and not in other goroutines,
// belong to the host.
func (h host) do(fn func() error) error {
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

// dial connects to an address of the agent from one of the client's. Keepalive is off: an end must
// come from the agent's host.
func (h host) dial(from netip.Addr, to string) (conn *net.TCPConn, err error) {
	err = h.do(func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, KeepAlive: -1, Timeout: patience}
		d.SetMultipathTCP(false)
		c, err := d.Dial("tcp", to)
		if err == nil {
			conn = c.(*net.TCPConn)
		}
		return err
	})
	return conn, err
}

func (h host) listen(t *testing.T, addr string) *net.TCPListener {
	t.Helper()
	var l net.Listener
	err := h.do(func() (err error) {
		lc := net.ListenConfig{KeepAlive: -1}
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(t.Context(), "tcp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}
