// SPDX-License-Identifier: Apache-2.0

//go:build linux

package zero

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/curfew-proxy/curfew/lab"
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

// network makes the three hosts.
func network(t *testing.T) (client, agent, upstream *lab.Host) {
	t.Helper()
	client, agent, upstream = newHost(t), newHost(t), newHost(t)
	var addresses []string
	for n := range clientAddrs {
		for _, family := range families {
			addresses = append(addresses, clientAddr(family, n).String())
		}
	}
	err := errors.Join(
		lab.Link(client, agent, "client"), lab.Link(agent, upstream, "upstream"),
		client.Address("client0", addresses...),
		agent.Address("client1", agentAddr[4], agentAddr[6]),
		agent.Address("upstream0", "10.88.2.254", "fd88:2::fe"),
		upstream.Address("upstream1", upstreamAddr[4], upstreamAddr[6]),
	)
	if err != nil {
		t.Fatal(err)
	}
	return client, agent, upstream
}

func newHost(t *testing.T) *lab.Host {
	t.Helper()
	h, err := lab.NewHost()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// listen opens a listener on a host until the test ends.
func listen(t *testing.T, h *lab.Host, addr string) *net.TCPListener {
	t.Helper()
	l, err := h.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}
