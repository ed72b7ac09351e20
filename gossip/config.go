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
	"math"
	"net"
	"net/netip"

	"github.com/hashicorp/memberlist"

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
	// Meta is what other members see of this node in Member.Meta: at most MaxMeta bytes. It is called by New
	// and by Update.
	Meta func() []byte
	// Changed is called, without any lock, when a member came, went or changed.
	Changed func()

	Seeds    []string // "host:port", where a name stands for all its addresses, or "srv:_service._proto.name"
	Resolver Resolver
	// Remembered are members of earlier times; Remember is called with those of now when they change.
	Remembered []mesh.Peer
	Remember   func([]mesh.Peer)
	// Removed reports that a node is not to be looked for, nor to be admitted, nor to be shown. It is called
	// under locks: it must not block, nor call the Cluster.
	Removed func(name string) bool

	MaxRequest int // bytes of a request, and of a reply; zero: 16 MiB

	Log   *slog.Logger
	Count func(event string) // one of Events
}

// Bounds of Config.
const (
	MaxMeta = memberlist.MetaMaxSize // bytes

	maxName           = mesh.MaxName
	defaultMaxRequest = 16 << 20
)

// Events that Config.Count is called with.
const (
	EventMalformed     = "malformed"      // a packet of a member was nonsense: a bug, or an attack
	EventPacketFull    = "packet_full"    // memberlist does not keep up: a packet was dropped
	EventPhantom       = "phantom"        // a member was announced and did not prove its name in time
	EventBroadcastFull = "broadcast_full" // too many broadcasts wait: the oldest were dropped
	EventGossipFull    = "gossip_full"    // broadcasts came faster than they were worked on: one was dropped
	EventRequestFull   = "request_full"   // too many requests at once: one was refused
	EventRejoined      = "rejoined"       // a missing member was found again
)

// Events are all that Config.Count is called with.
func Events() []string {
	return []string{EventMalformed, EventPacketFull, EventPhantom, EventBroadcastFull, EventGossipFull, EventRequestFull, EventRejoined}
}

func (c *Config) validate() error {
	switch {
	case c.Name == "" || len(c.Name) > maxName:
		return fmt.Errorf("gossip: name %q: want 1 to %d bytes", c.Name, maxName)
	case checkAddr(c.Advertise) != nil:
		return fmt.Errorf("gossip: %w", checkAddr(c.Advertise))
	case c.Carrier == nil || c.Handler == nil || c.Log == nil:
		return errors.New("gossip: Carrier, Handler and Log are required")
	case c.MaxRequest < 0 || c.MaxRequest > math.MaxInt32:
		return fmt.Errorf("gossip: MaxRequest %d: want at most %d bytes", c.MaxRequest, math.MaxInt32)
	}
	if c.MaxRequest == 0 {
		c.MaxRequest = defaultMaxRequest
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
