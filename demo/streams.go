// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/lab"
)

// Both ends of a stream send a stamp, the reading of CLOCK_BOOTTIME when it was sent, every
// interval, and look at those that arrive.
const (
	stampSize = 64 // bytes
	interval  = 10 * time.Millisecond
)

// end is one end of a stream: what arrived there, and when it was over.
type end struct {
	received atomic.Uint64   // bytes
	latest   session.Instant // the latest stamp that arrived; after closed
	closed   session.Instant // when the end noticed that the connection was over
}

// pump sends and receives stamps on conn until it is over.
func (e *end) pump(conn net.Conn) {
	var sender sync.WaitGroup
	sender.Go(func() { send(conn) })
	for e.receive(conn) == nil {
	}
	e.closed = hostclock.Clock{}.Boot()
	_ = conn.Close() // it is over
	sender.Wait()
}

// receive waits for one stamp.
func (e *end) receive(conn net.Conn) error {
	var buf [stampSize]byte
	if _, err := io.ReadFull(conn, buf[:]); err != nil {
		return err
	}
	e.received.Add(stampSize)
	e.latest = max(e.latest, session.Instant(binary.LittleEndian.Uint64(buf[:])))
	return nil
}

func send(conn net.Conn) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	buf := make([]byte, stampSize)
	for range tick.C {
		binary.LittleEndian.PutUint64(buf, uint64(hostclock.Clock{}.Boot()))
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}

// upstream is the service behind the agent: it streams to whoever comes, for ever.
type upstream struct {
	listener net.Listener

	mu   sync.Mutex
	ends []*end // of the round
	live sync.WaitGroup
}

// newUpstream listens on an address of a host, or of this one if that is nil.
func newUpstream(host *lab.Host, addr string) (*upstream, error) {
	listen := func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	if host != nil {
		listen = func(addr string) (net.Listener, error) { return host.Listen(addr) }
	}
	l, err := listen(net.JoinHostPort(addr, "0"))
	if err != nil {
		return nil, fmt.Errorf("stream service: %w", err)
	}
	return &upstream{listener: l}, nil
}

func (u *upstream) addr() string { return u.listener.Addr().String() }

// run serves until ctx is done.
func (u *upstream) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = u.listener.Close() }) // wakes Accept
	defer stop()
	for {
		conn, err := u.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("stream service: %w", err)
		}
		e := &end{}
		u.mu.Lock()
		u.ends = append(u.ends, e)
		u.mu.Unlock()
		u.live.Go(func() { e.pump(conn) })
	}
}

// take returns the ends of the round that is over.
func (u *upstream) take() []*end {
	u.live.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	ends := u.ends
	u.ends = nil
	return ends
}

// streams are the clients' ends of a round.
type streams struct {
	ends []*end
	live sync.WaitGroup
}

// open connects n streams; all are let in when it returns: with TLS 1.3 a handshake that has gone well at the client
// does not say that yet, so each waits for the first stamp.
func open(ctx context.Context, n int, addr string, config *tls.Config) (*streams, error) {
	s := &streams{ends: make([]*end, n)}
	conns := make([]net.Conn, n)
	group, ctx := errgroup.WithContext(ctx)
	for i := range n {
		s.ends[i] = &end{}
		group.Go(func() (err error) {
			d := tls.Dialer{Config: config}
			if conns[i], err = d.DialContext(ctx, "tcp", addr); err != nil {
				return err
			}
			defer context.AfterFunc(ctx, func() { _ = conns[i].Close() })() // another one failed
			return s.ends[i].receive(conns[i])
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("open streams: %w", err)
	}
	for i, conn := range conns {
		s.live.Go(func() { s.ends[i].pump(conn) })
	}
	return s, nil
}

func (s *streams) received() (bytes uint64) {
	for _, e := range s.ends {
		bytes += e.received.Load()
	}
	return bytes
}

// verdict sums up one side of a round.
type verdict struct {
	ended         int
	after         int // stamps of after the deadline that arrived
	p50, p99, max time.Duration
}

// judge looks at what arrived and when the ends noticed.
func judge(ends []*end, deadline session.Instant) verdict {
	var late []time.Duration
	v := verdict{ended: len(ends)}
	for _, e := range ends {
		late = append(late, e.closed.Sub(deadline))
		if e.latest > deadline {
			v.after++
		}
	}
	slices.Sort(late)
	if n := len(late); n > 0 {
		v.p50, v.p99, v.max = late[n/2], late[min(n-1, n*99/100)], late[n-1]
	}
	return v
}
