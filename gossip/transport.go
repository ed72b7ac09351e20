// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// transport is memberlist's NodeAwareTransport on a carrier. It owns its channels, not the carrier.
//
// A carrier finds a node by its name, memberlist by its address. A node that comes back at another address
// before its death was noticed would therefore go on answering in the name of its old self, and memberlist
// would never take the new address. So every packet begins with the address at which its sender wants to be
// reached, and memberlist's own traffic to a member that is not where memberlist thinks is dropped: it
// dies there, and is admitted anew.
type transport struct {
	cluster *Cluster
	packets chan *memberlist.Packet
	streams chan net.Conn
	heads   [2][]byte       // of every packet; of one that leaves
	ctx     context.Context // ends with Shutdown
	cancel  context.CancelFunc
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(c *Cluster) *transport {
	t := &transport{cluster: c, packets: make(chan *memberlist.Packet, handoffDepth), streams: make(chan net.Conn)}
	t.heads = [2][]byte{appendHead(nil, head{c.cfg.Advertise, false}), appendHead(nil, head{c.cfg.Advertise, true})}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// head is what a member says of itself in each of memberlist's packets; a packet may have nothing else. The
// carrier vouches for who says it.
type head struct {
	addr    netip.AddrPort // where it wants to be reached
	leaving bool           // memberlist tells others of it, but not whether a member has left or died
}

const headLeaving = 0x80

// appendHead appends the length of the address with a flag in it, and the address.
func appendHead(b []byte, h head) []byte {
	addr, _ := h.addr.MarshalBinary() // never fails
	n := byte(len(addr))
	if h.leaving {
		n |= headLeaving
	}
	return append(append(b, n), addr...)
}

var errMalformed = errors.New("malformed")

// cutHead reads what appendHead wrote, and returns what follows.
func cutHead(b []byte) (h head, rest []byte, err error) {
	if len(b) == 0 {
		return h, nil, errMalformed
	}
	n := 1 + int(b[0]&^headLeaving)
	if len(b) < n {
		return h, nil, errMalformed
	}
	h.leaving = b[0]&headLeaving != 0
	if err := h.addr.UnmarshalBinary(b[1:n]); err != nil || checkAddr(h.addr) != nil {
		return h, nil, errMalformed
	}
	return h, b[n:], nil
}

// checkAddr reports why an address is none that others can reach.
func checkAddr(a netip.AddrPort) error {
	if !a.IsValid() || a.Addr().IsUnspecified() || a.Addr().Zone() != "" || a.Port() == 0 {
		return fmt.Errorf("%v cannot be advertised: want an address and a port that others reach", a)
	}
	return nil
}

// peerAddr is a carrier's address in memberlist's form.
type peerAddr string

func (peerAddr) Network() string  { return "mesh" }
func (a peerAddr) String() string { return string(a) }

// packet hands a packet to memberlist. Where memberlist is too slow it is dropped, as on any network.
func (t *transport) packet(p mesh.Packet) {
	h, data, err := cutHead(p.Data)
	if err != nil {
		t.cluster.cfg.Count(EventMalformed)
		return
	}
	t.cluster.heard(p.From.Name, h)
	if len(data) == 0 {
		return
	}
	select {
	case t.packets <- &memberlist.Packet{Buf: data, From: peerAddr(h.addr.String()), Timestamp: p.At}:
	default:
		t.cluster.cfg.Count(EventPacketFull)
	}
}

func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	a := t.cluster.cfg.Advertise
	return a.Addr().AsSlice(), int(a.Port()), nil
}

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress implements memberlist.NodeAwareTransport. Who has no name cannot be talked to.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	now := time.Now()
	switch {
	case a.Name == "":
		return now, fmt.Errorf("packet to %s: nobody is named", a.Addr)
	case t.cluster.isElsewhere(a):
		return now, nil // memberlist takes silence, not an error, for death
	}
	t.send(mesh.Peer{Name: a.Name, Addr: a.Addr}, b)
	return now, nil
}

// send sends a packet with our head, if it can.
func (t *transport) send(to mesh.Peer, b []byte) {
	h := t.heads[0]
	if t.cluster.leaving.Load() {
		h = t.heads[1]
	}
	_ = t.cluster.cfg.Carrier.Send(to, mesh.KindMembership, slices.Concat(h, b)) // best effort
}

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if t.cluster.isElsewhere(a) {
		return nil, fmt.Errorf("%s is no longer at %s", a.Name, a.Addr)
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	return t.cluster.cfg.Carrier.Dial(ctx, mesh.Peer{Name: a.Name, Addr: a.Addr}, mesh.KindMembership)
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

// Shutdown ends dials that are under way.
func (t *transport) Shutdown() error {
	t.cancel()
	return nil
}
