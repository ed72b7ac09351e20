// SPDX-License-Identifier: Apache-2.0

// Package mesh carries bytes between the nodes of a cluster: QUIC with mutual TLS, one link for each pair
// of nodes, packets and streams above it. It knows a node by the name in its certificate and by nothing else.
//
// It owns the UDP socket, the links and their goroutines. It must not know what it carries, who is a member
// (that is gossip's) or who may be one (that is gossip/trust's, asked through Trust).
package mesh

import (
	"net"
	"time"
)

// Peer is where a packet or a stream shall go, or where it came from.
type Peer struct {
	Name string // in its certificate, 1 to 64 bytes; empty, in Dial only: whoever answers at Addr
	Addr string // host:port; the host may be a name
}

// Packet is a message that a peer sent. Whoever receives it owns Data.
type Packet struct {
	From Peer
	Kind byte // what the sender said; the mesh gives no meaning to it
	Data []byte
	At   time.Time // when it was taken from the network, with a monotonic reading
}

// Stream is a stream that a peer opened. Whoever receives it closes Conn.
type Stream struct {
	From string // the name in the peer's certificate
	Kind byte   // what the opener said; the mesh gives no meaning to it
	Conn net.Conn
}

// What a packet or a stream is for.
const (
	KindMembership  byte = 1
	KindApplication byte = 2
)
