// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// transport is memberlist's NodeAwareTransport on a carrier. It owns its channels, not the carrier.
type transport struct {
	advertise netip.AddrPort
	sender    Sender
	packets   chan *memberlist.Packet
	streams   chan net.Conn
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(advertise netip.AddrPort, s Sender) *transport {
	return &transport{advertise: advertise, sender: s, packets: make(chan *memberlist.Packet, handoffDepth), streams: make(chan net.Conn)}
}

// peerAddr is a carrier's address in memberlist's form.
type peerAddr string

func (peerAddr) Network() string  { return "mesh" }
func (a peerAddr) String() string { return string(a) }

// packet hands a packet to memberlist. Where memberlist is too slow it is dropped, as on any network.
func (t *transport) packet(p mesh.Packet) {
	select {
	case t.packets <- &memberlist.Packet{Buf: p.Data, From: peerAddr(p.From.Addr), Timestamp: p.At}:
	default:
	}
}

func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertise.Addr().AsSlice(), int(t.advertise.Port()), nil
}

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress implements memberlist.NodeAwareTransport. Who has no name cannot be talked to.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	now := time.Now()
	if a.Name == "" {
		return now, fmt.Errorf("packet to %s: nobody is named", a.Addr)
	}
	return now, t.sender.Send(mesh.Peer{Name: a.Name, Addr: a.Addr}, mesh.KindMembership, b)
}

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return t.sender.Dial(ctx, mesh.Peer{Name: a.Name, Addr: a.Addr}, mesh.KindMembership)
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }
func (t *transport) Shutdown() error                     { return nil }
