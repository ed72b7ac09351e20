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
	Session  ID
	Service  string
	Source   netip.AddrPort // the client's address
	Client   Socket
	Upstream Socket
	Opened   time.Time
	Deadline Instant // the service's own limit on this connection, or zero
	// Abort closes both legs with a reset (SO_LINGER 0) from user space. It is set by the proxy,
	// may be called from any goroutine, any number of times, and does not block.
	Abort func()

	// Activity is what the relay reports while it runs; see Activity.
	Activity Activity
}

// Activity is written by the relay and read by the session's idle timer. Each field costs the
// relay one relaxed load per read system call, and a store only when the value changes.
type Activity struct {
	// FromClient and FromUpstream are set by the relay when it has read payload from that leg,
	// and cleared by the idle timer when it has taken note.
	FromClient, FromUpstream atomic.Bool
	// Pending is set when the client has spoken last: a request that has no answer yet is
	// not idle.
	Pending atomic.Bool
	// Renew is set by the idle timer in the last quarter of the idle timeout: the relay then
	// calls Wake at once on client payload, so that the lease moves before it runs out.
	Renew atomic.Bool
	// Wake is set when the connection is attached, before it relays; it does not block.
	Wake func()
	// BytesFromClient and BytesFromUpstream count payload relayed.
	BytesFromClient, BytesFromUpstream atomic.Uint64
}

// NoteClient records payload read from the client.
func (a *Activity) NoteClient(n int) {
	a.BytesFromClient.Add(uint64(n))
	set(&a.FromClient)
	set(&a.Pending)
	if a.Renew.Load() && a.Wake != nil {
		a.Wake()
	}
}

// NoteUpstream records payload read from the upstream.
func (a *Activity) NoteUpstream(n int) {
	a.BytesFromUpstream.Add(uint64(n))
	set(&a.FromUpstream)
	if a.Pending.Load() {
		a.Pending.Store(false)
	}
	if a.Renew.Load() && a.Wake != nil {
		a.Wake()
	}
}

func set(b *atomic.Bool) {
	if !b.Load() {
		b.Store(true)
	}
}
