// SPDX-License-Identifier: Apache-2.0

// Package gossip knows who is in the cluster: it adapts hashicorp/memberlist to a carrier of ours, keeps looking
// for members that are missing, and carries bytes between members: packets, requests and broadcasts.
//
// It owns memberlist and its settings. It must not know what it carries, nor how a carrier knows a node by
// its name (that is gossip/mesh's).
package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// Carrier moves packets and streams between named nodes; mesh.Mesh is one. It is safe for concurrent use.
type Carrier interface {
	Sender
	Receiver
}

// Sender is a carrier's way out.
type Sender interface {
	// Send sends a packet, best effort. It does not block and does not keep data.
	Send(to mesh.Peer, kind byte, data []byte) error
	// Dial opens a stream; to whoever answers at the address, if the name is empty.
	Dial(ctx context.Context, to mesh.Peer, kind byte) (net.Conn, error)
	// Up reports whether a node of this name, proved to be it, is connected.
	Up(name string) bool
}

// Receiver is a carrier's way in.
type Receiver interface {
	Packets() <-chan mesh.Packet
	Streams() <-chan mesh.Stream
}

// Handler gets what members send. Its methods are called concurrently.
type Handler interface {
	// Receive gets a packet, and owns it. It must not block.
	Receive(from string, data []byte)
	// Serve answers a request; an error reaches the asker as its text.
	Serve(from string, request []byte) (reply []byte, err error)
	// Gossiped gets a broadcast, and owns it. It reports whether it was news, to be passed on.
	Gossiped(data []byte) (news bool)
}

// Config of a Cluster. Resolver, Seeds, Remembered, Remember, Removed and Count are optional.
type Config struct {
	Name      string // of this node: the same over restarts
	Advertise netip.AddrPort
	Carrier   Carrier
	Handler   Handler
	// Meta is what other members see of this node in Member.Meta: at most 511 bytes.
	Meta func() []byte
	// Changed is called, without any lock, when a member came, went or changed.
	Changed func()

	Seeds    []string // "host:port", where a name stands for all its addresses, or "srv:_service._udp.name"
	Resolver Resolver
	// Remembered are members of earlier times; Remember is called with those of now when they change.
	Remembered []mesh.Peer
	Remember   func([]mesh.Peer)
	// Removed reports that a node is not to be looked for, nor to be shown.
	Removed func(name string) bool

	Log   *slog.Logger
	Count func(event string) // one of Events
}

// Events that Config.Count is called with.
const (
	EventPhantom       = "phantom"        // a member was announced that has not proved its name
	EventBroadcastFull = "broadcast_full" // too many broadcasts wait: the oldest were dropped
	EventGossipFull    = "gossip_full"    // broadcasts came faster than they were worked on: one was dropped
	EventRequestFull   = "request_full"   // too many requests at once: one was refused
	EventRejoined      = "rejoined"       // a missing member was found again
)

// Events are all that Config.Count is called with.
func Events() []string {
	return []string{EventPhantom, EventBroadcastFull, EventGossipFull, EventRequestFull, EventRejoined}
}

func (c *Config) validate() error {
	switch {
	case c.Name == "" || len(c.Name) > 64:
		return fmt.Errorf("gossip: name %q: want 1 to 64 bytes", c.Name)
	case !c.Advertise.IsValid() || c.Advertise.Addr().IsUnspecified() || c.Advertise.Port() == 0:
		return fmt.Errorf("gossip: %v cannot be advertised: want an address and a port that others reach", c.Advertise)
	case c.Carrier == nil || c.Handler == nil || c.Log == nil:
		return errors.New("gossip: Carrier, Handler and Log are required")
	}
	if c.Meta == nil {
		c.Meta = func() []byte { return nil }
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	if c.Remember == nil {
		c.Remember = func([]mesh.Peer) {}
	}
	if c.Removed == nil {
		c.Removed = func(string) bool { return false }
	}
	if c.Count == nil {
		c.Count = func(string) {}
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	return nil
}
