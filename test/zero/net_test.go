// SPDX-License-Identifier: Apache-2.0

//go:build linux

package zero

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
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
	for family, bits := range map[int]int{4: 24, 6: 64} {
		for n := range clientAddrs {
			client.address(t, "client0", netip.PrefixFrom(clientAddr(family, n), bits))
		}
		agent.address(t, "client1", netip.PrefixFrom(netip.MustParseAddr(agentAddr[family]), bits))
		up := netip.MustParseAddr(upstreamAddr[family])
		upstream.address(t, "upstream1", netip.PrefixFrom(up, bits))
		agent.address(t, "upstream0", netip.PrefixFrom(map[int]netip.Addr{4: netip.MustParseAddr("10.88.2.254"), 6: netip.MustParseAddr("fd88:2::fe")}[family], bits))
	}
	return client, agent, upstream
}

func newHost(t *testing.T) host {
	t.Helper()
	var h host
	err := thread(func() error {
		ns, err := netns.New()
		if err != nil {
			return err
		}
		h.File = os.NewFile(uintptr(ns), "netns")
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// link joins two hosts: NAME0 on a, NAME1 on b.
func link(t *testing.T, a, b host, name string) {
	t.Helper()
	err := a.do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name + "0"}, PeerName: name + "1", PeerNamespace: netlink.NsFd(b.Fd())})
	})
	for h, dev := range map[host]string{a: name + "0", b: name + "1"} {
		if err == nil {
			err = h.do(func() error {
				l, err := netlink.LinkByName(dev)
				if err != nil {
					return err
				}
				return netlink.LinkSetUp(l)
			})
		}
	}
	if err != nil {
		t.Fatalf("link %s: %v", name, err)
	}
}

func (h host) address(t *testing.T, dev string, p netip.Prefix) {
	t.Helper()
	err := h.do(func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		return netlink.AddrAdd(l, addr)
	})
	if err != nil {
		t.Fatalf("address %v on %s: %v", p, dev, err)
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
