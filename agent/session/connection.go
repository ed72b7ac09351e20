// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// Leg tells the two sockets of a connection apart.
type Leg uint8

// The legs of a connection.
const (
	ClientLeg   Leg = 1 // between the client and the proxy
	UpstreamLeg Leg = 2 // between the proxy and the upstream service
)

func (l Leg) String() string {
	switch l {
	case ClientLeg:
		return "client"
	case UpstreamLeg:
		return "upstream"
	}
	return fmt.Sprintf("leg %d", uint8(l))
}

// Tuple names a TCP socket by its addresses as the local host sees them.
type Tuple struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
}

// Socket names one TCP socket beyond doubt: a tuple may be reused, the kernel's cookie
// (SO_COOKIE) never is within a boot.
type Socket struct {
	Tuple  Tuple  `json:"tuple"`
	Cookie uint64 `json:"cookie"`
	Leg    Leg    `json:"leg"`
}

// Connection is one client's way through the proxy: a client leg and an upstream leg that
// belong to a session. The exported fields are set before the connection is attached to a
// session and never change after; the rest is safe for concurrent use.
type Connection struct {
	ID       uint64 // unique in this process, from 1
	Service  string
	Source   netip.AddrPort // the client's address
	Client   Socket
	Upstream Socket
	Opened   time.Time
	Deadline Instant // the service's own limit on this connection, or zero
	// Since is when the proxy began to look at what the connection was allowed on: what has changed since then, it may not know.
	Since Instant
	// Abort closes both legs with a reset (SO_LINGER 0) from user space. It is set by the proxy,
	// may be called from any goroutine, any number of times, and does not block.
	Abort func()

	Activity Activity

	session atomic.Pointer[ID]
}

// NewConnection returns a connection of a session, with nothing else set.
func NewConnection(s ID) *Connection {
	c := &Connection{}
	c.session.Store(&s)
	return c
}

// Session is the session that the connection belongs to: another one after a takeover.
func (c *Connection) Session() ID {
	if id := c.session.Load(); id != nil {
		return *id
	}
	return ID{}
}

// Activity is what the relay tells the session's idle timer. When payload last came in is read
// from the stack's own timestamps (LastPayload), so a read costs the relay two relaxed loads; the
// clock is read only when a request has been answered.
type Activity struct {
	// Set before the connection relays, never after. LastPayload reads when payload was last
	// received from the leg (tcp_info), zero if that is not to be had. Now is the clock. Wake moves
	// the session's idle lease at once. Both: payload from the upstream counts as activity too.
	LastPayload func(Leg) Instant
	Now         func() Instant
	Wake        func()
	Both        bool

	pending  atomic.Bool  // the client spoke last: a request that has no answer yet is not idle
	answered atomic.Int64 // Instant at which the last request was answered
	renew    atomic.Bool  // last quarter of the idle timeout: the next payload calls Wake

	// BytesFromClient and BytesFromUpstream count payload relayed.
	BytesFromClient, BytesFromUpstream atomic.Uint64
}

// NoteClient records that n bytes of payload were read from the client.
func (a *Activity) NoteClient(n int) {
	a.BytesFromClient.Add(uint64(n))
	if !a.pending.Load() {
		a.pending.Store(true)
	}
	a.wakeIfDue()
}

// NoteUpstream records that n bytes of payload were read from the upstream.
func (a *Activity) NoteUpstream(n int) {
	a.BytesFromUpstream.Add(uint64(n))
	if a.pending.Load() {
		if a.Now != nil {
			a.answered.Store(int64(a.Now()))
		}
		a.pending.Store(false)
	}
	if a.Both {
		a.wakeIfDue()
	}
}

// Pending reports whether the client has spoken last, and waits for an answer.
func (a *Activity) Pending() bool { return a.pending.Load() }

func (a *Activity) wakeIfDue() {
	if a.renew.Load() && a.renew.CompareAndSwap(true, false) && a.Wake != nil {
		a.Wake()
	}
}

// last is the latest activity on the connection as of now.
func (a *Activity) last(now Instant) Instant {
	if a.pending.Load() {
		return now
	}
	last := Instant(a.answered.Load())
	if a.LastPayload != nil {
		last = max(last, a.LastPayload(ClientLeg))
		if a.Both {
			last = max(last, a.LastPayload(UpstreamLeg))
		}
	}
	return min(last, now)
}
