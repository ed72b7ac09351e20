// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// conn is one end of a stream. What it writes arrives at its peer in order, after the network's latency;
// while there is a cut it waits.
type conn struct {
	local, remote *Node
	peer          *conn

	mu       sync.Mutex
	changed  chan struct{} // closed, and replaced, when something below has changed
	buf      []byte        // arrived and not read
	eof      bool          // the peer has closed
	closed   bool
	deadline time.Time
	way      []chunk // written and not arrived
}

// chunk is on its way.
type chunk struct {
	at      time.Time // when it arrives, at the earliest
	deliver func()
}

// resend is how long lost or stopped bytes of a stream wait until they are tried again.
const resend = 50 * time.Millisecond

func newPair(a, b *Node) (near, far *conn) {
	near = &conn{local: a, remote: b, changed: make(chan struct{})}
	far = &conn{local: b, remote: a, changed: make(chan struct{}), peer: near}
	near.peer = far
	return near, far
}

// changeLocked wakes all who wait.
func (c *conn) changeLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *conn) Read(b []byte) (int, error) {
	for {
		c.mu.Lock()
		if len(c.buf) > 0 && !c.closed {
			n := copy(b, c.buf)
			c.buf = c.buf[n:]
			c.mu.Unlock()
			return n, nil
		}
		closed, eof, changed, deadline := c.closed, c.eof, c.changed, c.deadline
		c.mu.Unlock()
		switch {
		case closed:
			return 0, net.ErrClosed
		case eof:
			return 0, io.EOF
		}
		var expired <-chan time.Time
		if !deadline.IsZero() {
			left := time.Until(deadline)
			if left <= 0 {
				return 0, os.ErrDeadlineExceeded
			}
			timer := time.NewTimer(left)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-changed:
		case <-expired:
		}
	}
}

func (c *conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	closed, expired := c.closed, !c.deadline.IsZero() && !time.Now().Before(c.deadline)
	c.mu.Unlock()
	switch {
	case closed:
		return 0, net.ErrClosed
	case expired:
		return 0, os.ErrDeadlineExceeded
	}
	data := append([]byte(nil), b...)
	c.schedule(len(b), func() { c.peer.arrive(data, false) })
	return len(b), nil
}

// schedule calls deliver when what was written now arrives; in order.
func (c *conn) schedule(n int, deliver func()) {
	w := c.local.net
	w.mu.Lock()
	at := time.Now().Add(w.delayLocked())
	if w.chanceLocked(w.cfg.Loss) {
		at = at.Add(resend)
	}
	c.local.stats.StreamBytes += n
	w.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.way = append(c.way, chunk{at, deliver})
	if len(c.way) == 1 {
		time.AfterFunc(time.Until(at), c.pump)
	}
}

// pump delivers what is due, and comes back for the rest. One is under way while there is anything in c.way.
func (c *conn) pump() {
	w := c.local.net
	w.mu.Lock()
	there := w.nodes[c.local.name] == c.local && w.nodes[c.remote.name] == c.remote
	passes := there && w.passesLocked(c.local.name, c.remote.name)
	w.mu.Unlock()
	if !there || c.peer.isClosed() {
		return // nobody waits for the rest
	}
	next := resend
	if passes {
		c.mu.Lock()
		head := c.way[0]
		c.mu.Unlock()
		head.deliver()
		c.mu.Lock()
		c.way = c.way[1:]
		if len(c.way) == 0 {
			c.mu.Unlock()
			return
		}
		next = max(time.Until(c.way[0].at), 0)
		c.mu.Unlock()
	}
	time.AfterFunc(next, c.pump)
}

func (c *conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func (c *conn) arrive(data []byte, eof bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf, data...)
	c.eof = c.eof || eof
	c.changeLocked()
}

func (c *conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.changeLocked()
	c.mu.Unlock()
	c.local.net.mu.Lock()
	delete(c.local.conns, c)
	c.local.net.mu.Unlock()
	c.schedule(0, func() { c.peer.arrive(nil, true) })
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	c.changeLocked()
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error  { return c.SetDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return nil } // writes do not wait

type addr string

func (addr) Network() string  { return "memnet" }
func (a addr) String() string { return string(a) }

func (c *conn) LocalAddr() net.Addr  { return addr(c.local.addr) }
func (c *conn) RemoteAddr() net.Addr { return addr(c.remote.addr) }
