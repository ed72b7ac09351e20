// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"io"
	"net"
	"os"
	"time"
)

// conn is one end of a stream. What it writes arrives at its peer in order, after the network's latency;
// while there is a cut it waits. Everything is guarded by Network.mu.
type conn struct {
	link          *link
	local, remote *Node
	peer          *conn

	changed     chan struct{} // closed, and replaced, when something below has changed
	buf         []byte        // arrived and not read
	eof         bool          // the peer has closed
	closed      bool
	readUntil   time.Time
	writeUntil  time.Time
	way         []chunk // written and not arrived
	outstanding int     // bytes written and not read
}

// chunk is on its way.
type chunk struct {
	at      time.Time // when it arrives, at the earliest
	deliver func()
}

func newPair(l *link, a, b *Node) (near, far *conn) {
	near = &conn{link: l, local: a, remote: b, changed: make(chan struct{})}
	far = &conn{link: l, local: b, remote: a, changed: make(chan struct{}), peer: near}
	near.peer = far
	l.conns[near], l.conns[far] = true, true
	return near, far
}

// changeLocked wakes all who wait.
func (c *conn) changeLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// waitLocked gives the lock away until something has changed or a deadline is over.
func (c *conn) waitLocked(until time.Time) {
	changed, w := c.changed, c.local.net
	w.mu.Unlock()
	defer w.mu.Lock()
	var expired <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-changed:
	case <-expired:
	}
}

func over(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

func (c *conn) Read(b []byte) (int, error) {
	c.local.net.mu.Lock()
	defer c.local.net.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case over(c.readUntil):
			return 0, os.ErrDeadlineExceeded
		case len(c.buf) > 0:
			n := copy(b, c.buf)
			c.buf = c.buf[n:]
			c.peer.outstanding -= n
			c.peer.changeLocked()
			return n, nil
		case c.eof:
			return 0, io.EOF
		case c.link.broken:
			return 0, ErrLost
		}
		c.waitLocked(c.readUntil)
	}
}

// Write waits while a mebibyte was written and not read.
func (c *conn) Write(b []byte) (n int, err error) {
	c.local.net.mu.Lock()
	defer c.local.net.mu.Unlock()
	for n < len(b) {
		switch {
		case c.closed:
			return n, net.ErrClosed
		case over(c.writeUntil):
			return n, os.ErrDeadlineExceeded
		case c.link.broken || c.eof:
			return n, ErrLost
		case c.outstanding >= window:
			c.waitLocked(c.writeUntil)
			continue
		}
		data := append([]byte(nil), b[n:min(len(b), n+window-c.outstanding)]...)
		n += len(data)
		c.outstanding += len(data)
		c.local.stats.Sent.StreamBytes += len(data)
		c.scheduleLocked(len(data), func() {
			c.remote.stats.Received.StreamBytes += len(data)
			c.peer.buf = append(c.peer.buf, data...)
			c.peer.changeLocked()
		})
	}
	return n, nil
}

// scheduleLocked calls deliver, under the lock, when what was written now arrives; in order.
func (c *conn) scheduleLocked(n int, deliver func()) {
	w := c.local.net
	at := time.Now().Add(w.delayLocked())
	for range 1 + n/mtu {
		if w.lostLocked(direction{c.local.name, c.remote.name}) {
			at = at.Add(resend)
			break // those of one flight are sent again together
		}
	}
	c.way = append(c.way, chunk{at, deliver})
	if len(c.way) == 1 {
		time.AfterFunc(time.Until(at), c.pump)
	}
}

const mtu = 1200

// pump delivers what is due, and comes back for the rest. One is under way while there is anything in c.way.
func (c *conn) pump() {
	w := c.local.net
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.link.broken || c.peer.closed {
		return // nobody waits for the rest
	}
	if !w.passesLocked(direction{c.local.name, c.remote.name}) {
		time.AfterFunc(resend, c.pump)
		return
	}
	for len(c.way) > 0 {
		if wait := time.Until(c.way[0].at); wait > 0 {
			time.AfterFunc(wait, c.pump)
			return
		}
		first := c.way[0]
		c.way = c.way[1:]
		first.deliver()
		if c.peer.closed {
			return
		}
	}
}

// Close closes both directions: what was written still arrives, what arrives is not read.
func (c *conn) Close() error {
	c.local.net.mu.Lock()
	defer c.local.net.mu.Unlock()
	c.closeLocked()
	return nil
}

func (c *conn) closeLocked() {
	if c.closed {
		return
	}
	c.closed = true
	c.changeLocked()
	delete(c.link.conns, c)
	c.scheduleLocked(0, func() {
		c.peer.eof = true
		c.peer.changeLocked()
	})
}

func (c *conn) SetDeadline(t time.Time) error      { return c.setDeadlines(&t, &t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.setDeadlines(&t, nil) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(nil, &t) }

func (c *conn) setDeadlines(read, write *time.Time) error {
	c.local.net.mu.Lock()
	defer c.local.net.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if read != nil {
		c.readUntil = *read
	}
	if write != nil {
		c.writeUntil = *write
	}
	c.changeLocked()
	return nil
}

type addr string

func (addr) Network() string  { return "memnet" }
func (a addr) String() string { return string(a) }

func (c *conn) LocalAddr() net.Addr  { return addr(c.local.addr) }
func (c *conn) RemoteAddr() net.Addr { return addr(c.remote.addr) }
