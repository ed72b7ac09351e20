// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// Link joins two hosts by a pair of interfaces, NAME0 on a and NAME1 on b, which have no addresses yet.
func Link(a, b *Host, name string) error {
	return errors.Join(
		a.IP(fmt.Sprintf("link add %s0 type veth peer name %s1 netns /proc/%d/fd/%d", name, name, os.Getpid(), b.Fd()), "link set "+name+"0 up"),
		b.IP("link set "+name+"1 up"))
}

// Address gives addresses to an interface, in networks of /24 and /64.
func (h *Host) Address(dev string, addresses ...string) error {
	var commands []string
	for _, a := range addresses {
		bits := "/24"
		if strings.Contains(a, ":") {
			bits = "/64 nodad" // nobody else is there
		}
		commands = append(commands, fmt.Sprintf("address add %s%s dev %s", a, bits, dev))
	}
	return h.IP(commands...)
}

// Network is hosts on one switch, which is a host too: 10.87.0.254, while the others are 10.87.0.1 and so on.
type Network struct {
	Switch *Host
	Hosts  []*Host
}

// network is where the addresses of a Network are from: free for use by anybody (RFC 1918).
var network = netip.AddrFrom4([4]byte{10, 87, 0, 0})

// NewNetwork makes n hosts on a switch, at most 250. Close it after use.
func NewNetwork(n int) (_ *Network, err error) {
	net := &Network{}
	defer func() {
		if err != nil {
			net.Close()
		}
	}()
	if net.Switch, err = NewHost(); err != nil {
		return nil, err
	}
	if err = net.Switch.IP("link add lan type bridge", "link set lan up", "address add "+net.SwitchAddr()+"/24 dev lan"); err != nil {
		return nil, err
	}
	for i := range n {
		h, err := NewHost()
		if err != nil {
			return nil, err
		}
		net.Hosts = append(net.Hosts, h)
		if err := Link(net.Switch, h, net.port(i)); err != nil {
			return nil, err
		}
		err = errors.Join(net.Switch.IP("link set "+net.port(i)+"0 master lan"), h.Address(net.port(i)+"1", net.Addr(i)))
		if err != nil {
			return nil, err
		}
	}
	return net, nil
}

func (n *Network) port(i int) string { return fmt.Sprintf("host%d-", i) }

// Addr is the address of host i.
func (n *Network) Addr(i int) string {
	a := network.As4()
	a[3] = byte(i + 1)
	return netip.AddrFrom4(a).String()
}

// SwitchAddr is the address of the switch.
func (n *Network) SwitchAddr() string { return n.Addr(253) }

// Cut takes host i off the network, Mend puts it back.
func (n *Network) Cut(i int) error  { return n.Switch.IP("link set " + n.port(i) + "0 down") }
func (n *Network) Mend(i int) error { return n.Switch.IP("link set " + n.port(i) + "0 up") }

// Lose makes every host lose a share of the UDP packets that reach it: none for 0.
func (n *Network) Lose(percent int) error {
	var errs []error
	for _, h := range n.Hosts {
		errs = append(errs, h.Lose(percent))
	}
	return errors.Join(errs...)
}

// Lose makes the host lose a share of the UDP packets that reach it.
func (h *Host) Lose(percent int) error {
	commands := []string{"table inet lab", "delete table inet lab"} // the first makes the second possible
	if percent > 0 {
		commands = append(commands, "table inet lab",
			"add chain inet lab in { type filter hook input priority 0; policy accept; }",
			fmt.Sprintf("add rule inet lab in meta l4proto udp numgen random mod 100 < %d counter drop", percent))
	}
	return h.batch("nft", []string{"-f", "-"}, commands)
}

// Close lets go of the hosts: each ends with the last process in it.
func (n *Network) Close() {
	for _, h := range append(n.Hosts, n.Switch) {
		if h != nil {
			_ = h.Close() // a descriptor
		}
	}
}
