// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
)

// HeartbeatInterval is how often a healthy proxy says so.
const HeartbeatInterval = 250 * time.Millisecond

// ErrEnforcerGone: the enforcer has closed its end. Nothing is killed any longer but by the gate:
// the proxy must stop.
var ErrEnforcerGone = errors.New("the enforcer is gone")

// Client is the proxy's end of the message pair. Safe for concurrent use.
type Client struct {
	conn   *net.UnixConn
	seq    atomic.Uint32
	stats  atomic.Pointer[Stats]
	drain  chan struct{} // closed by the first Drain
	reload chan struct{}
	gone   chan struct{} // closed when the enforcer's end is

	mu    sync.Mutex
	calls map[uint32]*call // kills without an answer, by seq
}

type call struct {
	want   int
	report Report
	done   chan struct{} // closed when report is complete
}

// Report is what became of the sockets of a kill, each checked after it.
type Report struct {
	Outcomes []bpf.Outcome // in the order of the request
	Duration time.Duration // in the enforcer, from request to verified
}

// Count returns how many sockets had the outcome.
func (r Report) Count(o bpf.Outcome) int {
	n := 0
	for _, have := range r.Outcomes {
		if have == o {
			n++
		}
	}
	return n
}

// Complete reports whether no socket is left: each was destroyed or was gone already.
func (r Report) Complete() bool {
	return r.Count(bpf.Destroyed)+r.Count(bpf.Gone) == len(r.Outcomes)
}

// NewClient takes over f, the proxy's end of the pair (see Inherited). Run must run for anything
// to be received.
func NewClient(f *os.File) (*Client, error) {
	defer func() { _ = f.Close() }() // FileConn duplicates it
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("message pair: %w", err)
	}
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close() // not what was asked for
		return nil, fmt.Errorf("message pair: is a %T", conn)
	}
	// Room for the parts of a large kill.
	_ = uc.SetWriteBuffer(1 << 20) // the default works, with more wake-ups
	return &Client{
		conn: uc, drain: make(chan struct{}), reload: make(chan struct{}, 1),
		gone: make(chan struct{}), calls: map[uint32]*call{},
	}, nil
}

// Close closes the pair; Run then returns.
func (c *Client) Close() error { return c.conn.Close() }

// Drain is closed when the agent shuts down: accept no more, finish, say Goodbye, exit.
func (c *Client) Drain() <-chan struct{} { return c.drain }

// Reload receives when the configuration is to be read again.
func (c *Client) Reload() <-chan struct{} { return c.reload }

// Stats is what the enforcer has counted, a second old at the most.
func (c *Client) Stats() Stats {
	if s := c.stats.Load(); s != nil {
		return *s
	}
	return Stats{}
}

// Gone is closed when the enforcer's end is closed.
func (c *Client) Gone() <-chan struct{} { return c.gone }

// Run receives answers and orders, and beats every HeartbeatInterval while healthy returns true:
// make it a check that the main loops still turn. It returns nil when ctx ends, ErrEnforcerGone
// when the enforcer does.
func (c *Client) Run(ctx context.Context, healthy func() bool) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.receive(ctx) })
	g.Go(func() error { return c.beat(ctx, healthy) })
	g.Go(func() error {
		<-ctx.Done()
		return c.conn.SetReadDeadline(time.Unix(1, 0)) // wakes receive
	})
	err := g.Wait()
	close(c.gone)
	return err
}

func (c *Client) beat(ctx context.Context, healthy func() bool) error {
	ticker := time.NewTicker(HeartbeatInterval)
	defer ticker.Stop()
	for {
		if healthy() {
			if err := c.send(&message{typ: typeHeartbeat}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (c *Client) receive(ctx context.Context) error {
	buf := make([]byte, maxMessage+1)
	var m message
	for {
		n, err := c.conn.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil || n == 0:
			return ErrEnforcerGone
		}
		if err := m.decode(buf[:n]); err != nil {
			return fmt.Errorf("from the enforcer: %w", err)
		}
		switch m.typ {
		case typeKilled:
			c.killed(&m)
		case typeDrain:
			select {
			case <-c.drain:
			default:
				close(c.drain)
			}
		case typeStats:
			stats := m.stats
			c.stats.Store(&stats)
		case typeReload:
			select {
			case c.reload <- struct{}{}:
			default: // one is on its way
			}
		default:
			return fmt.Errorf("message of type %d from the enforcer", m.typ)
		}
	}
}

func (c *Client) killed(m *message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.calls[m.seq]
	if k == nil {
		return // its caller gave up
	}
	k.report.Outcomes = append(k.report.Outcomes, m.outcomes...)
	k.report.Duration = m.duration
	if !m.more {
		delete(c.calls, m.seq)
		close(k.done)
	}
}

// Kill has sockets of session number destroyed, and returns when the kernel has been asked again
// and says that they are gone, or what is left. Shut the session's gate first (Tagger.End). An
// error means that the outcome is unknown: ErrEnforcerGone, or that of ctx.
func (c *Client) Kill(ctx context.Context, number uint64, sockets []session.Socket) (Report, error) {
	if len(sockets) == 0 {
		return Report{}, nil
	}
	seq := c.seq.Add(1)
	k := &call{want: len(sockets), done: make(chan struct{})}
	c.mu.Lock()
	c.calls[seq] = k
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.calls, seq)
	}()
	for rest := sockets; len(rest) > 0; {
		n := min(len(rest), maxSockets)
		m := message{typ: typeKill, seq: seq, number: number, sockets: rest[:n], more: n < len(rest)}
		if err := c.send(&m); err != nil {
			return Report{}, fmt.Errorf("kill session %d: %w", number, err)
		}
		rest = rest[n:]
	}
	select {
	case <-k.done:
	case <-c.gone:
		return Report{}, fmt.Errorf("kill session %d: %w", number, ErrEnforcerGone)
	case <-ctx.Done():
		return Report{}, fmt.Errorf("kill session %d: %w", number, context.Cause(ctx))
	}
	if len(k.report.Outcomes) != k.want {
		return Report{}, fmt.Errorf("kill session %d: %d outcomes for %d sockets", number, len(k.report.Outcomes), k.want)
	}
	return k.report, nil
}

// Ready says that the proxy serves. Heartbeats are expected from then on.
func (c *Client) Ready() error { return c.send(&message{typ: typeReady}) }

// Status is shown by the service manager: printable ASCII, cut at 127 bytes.
func (c *Client) Status(text string) error {
	return c.send(&message{typ: typeStatus, status: printable(text)})
}

// Sweep asks for a pass over all sockets now; it does not wait for it.
func (c *Client) Sweep() error { return c.send(&message{typ: typeSweep}) }

// Goodbye says that draining is done, and the proxy is about to exit.
func (c *Client) Goodbye() error { return c.send(&message{typ: typeGoodbye}) }

// send writes one message; the kernel keeps messages of a SOCK_SEQPACKET whole.
func (c *Client) send(m *message) error {
	if _, err := c.conn.Write(m.append(make([]byte, 0, headerLen+len(m.sockets)*socketLen+statusLen))); err != nil {
		return fmt.Errorf("%w: %w", ErrEnforcerGone, err)
	}
	return nil
}

func printable(text string) string {
	b := []byte(text[:min(len(text), statusLen-1)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
