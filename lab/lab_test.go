// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"errors"
	"net"
	"testing"
	"time"
)

const patience = 10 * time.Second

// reach reports whether host 0 reaches host 1.
func reach(t *testing.T, n *Network, within time.Duration) bool {
	t.Helper()
	l, err := n.Hosts[1].Listen(net.JoinHostPort(n.Addr(1), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := n.Hosts[0].Dial("", l.Addr().String(), within)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

func newNetwork(t *testing.T, hosts int) *Network {
	t.Helper()
	n, err := NewNetwork(hosts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func TestCutAndMend(t *testing.T) {
	n := newNetwork(t, 2)
	if !reach(t, n, patience) {
		t.Fatal("hosts on one switch do not reach each other")
	}
	if err := n.Cut(1); err != nil {
		t.Fatal(err)
	}
	if reach(t, n, 200*time.Millisecond) {
		t.Fatal("a host that was cut off is reached")
	}
	if err := n.Mend(1); err != nil {
		t.Fatal(err)
	}
	if !reach(t, n, patience) {
		t.Fatal("a host is not reached after it was put back")
	}
}

// Loss is what it says, both ways, and ends.
func TestLose(t *testing.T) {
	n := newNetwork(t, 2)
	for _, percent := range []int{20, 0} {
		if err := n.Lose(percent); err != nil {
			t.Fatal(err)
		}
		const packets = 2000
		got := count(t, n, packets)
		if want := packets * (100 - percent) / 100; got < want-packets/10 || got > want+packets/10 {
			t.Errorf("of %d packets %d came through, with %d%% loss", packets, got, percent)
		}
	}
}

// count sends packets from host 0 to host 1, and returns how many came.
func count(t *testing.T, n *Network, packets int) (got int) {
	t.Helper()
	var from, to *net.UDPConn
	err := errors.Join(
		n.Hosts[1].Do(func() (err error) {
			to, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(n.Addr(1))})
			return err
		}),
		n.Hosts[0].Do(func() (err error) {
			from, err = net.DialUDP("udp", nil, to.LocalAddr().(*net.UDPAddr))
			return err
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	defer to.Close()
	for range packets {
		if _, err := from.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		// Read along, or the receive buffer decides.
		_ = to.SetReadDeadline(time.Now().Add(time.Millisecond)) // an open socket takes it
		if _, err := to.Read(make([]byte, 8)); err == nil {
			got++
		}
	}
	return got
}
