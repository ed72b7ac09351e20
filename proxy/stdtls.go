// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/tls"
	"io"
	"net"
)

// recordConn feeds crypto/tls from a socket one record at a time. crypto/tls reads ahead as far
// as it is let; bytes that it holds can neither be waited for (a wait on the socket would be for
// ever) nor handed to another record engine. So it is never let past a record's end, and what
// came behind stays here.
type recordConn struct {
	net.Conn // the TCP connection; everything but Read
	sock     *socket

	chunk *chunk // bytes read and not handed on: chunk.mem[r:w]; nil when there are none
	r, w  int
	head  [recordHeader]byte // the header of the current record as far as it was handed on
	heads int
	left  int   // bytes of the current record's body not handed on
	any   bool  // a byte ever came
	err   error // sticky: what the socket ended with
}

func newRecordConn(s *socket) *recordConn { return &recordConn{Conn: s.tcp, sock: s} }

// wait returns once a byte can be read, holding no buffer meanwhile.
func (c *recordConn) wait() error {
	if c.r < c.w {
		return nil
	}
	if c.err != nil {
		return c.err
	}
	c.chunk, c.w, c.err = c.sock.receive(nil)
	c.r = 0
	c.any = c.any || c.w > 0
	return c.err
}

func (c *recordConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.wait(); err != nil {
		return 0, err
	}
	var n int
	if c.left == 0 { // in the header
		n = copy(p, c.chunk.mem[c.r:min(c.w, c.r+recordHeader-c.heads)])
		c.heads += copy(c.head[c.heads:], p[:n])
		if c.heads == recordHeader {
			c.left = int(c.head[3])<<8 | int(c.head[4])
			c.heads = 0
		}
	} else {
		n = copy(p, c.chunk.mem[c.r:min(c.w, c.r+c.left)])
		c.left -= n
	}
	c.advance(n)
	return n, nil
}

func (c *recordConn) advance(n int) {
	if c.r += n; c.r == c.w {
		c.chunk.free()
		c.chunk = nil
	}
}

// peek waits until n bytes are there and returns all that are, without taking them.
func (c *recordConn) peek(n int) ([]byte, error) {
	for c.w-c.r < n {
		var held []byte
		if c.r < c.w {
			held = append(held, c.chunk.mem[c.r:c.w]...)
			c.advance(len(held))
		}
		chunk, w, err := c.sock.receive(held)
		if err != nil {
			return nil, err
		}
		c.chunk, c.r, c.w, c.any = chunk, 0, w, true
	}
	return c.chunk.mem[c.r:c.w], nil
}

// release gives up the bytes that were read and not handed on, for another engine to begin with.
func (c *recordConn) release() []byte {
	if c.r == c.w {
		return nil
	}
	rest := append([]byte(nil), c.chunk.mem[c.r:c.w]...)
	c.advance(len(rest))
	return rest
}

// stdLeg is TLS by crypto/tls: for TLS 1.2, and for suites that tls13Leg does not know.
type stdLeg struct {
	conn *tls.Conn
	in   *recordConn
	err  error // what the last read came with, beside its bytes
}

func (l *stdLeg) read() (*chunk, error) {
	if l.err != nil {
		return nil, l.err
	}
	// Every read below takes a whole record, so crypto/tls holds nothing now.
	if err := l.in.wait(); err != nil && err != io.EOF {
		return nil, err
	}
	c := getChunk(false)
	n, err := l.conn.Read(c.mem[recordHeader : recordHeader+maxPayload])
	l.err = err
	if n == 0 {
		c.free()
		return nil, err
	}
	c.spans = append(c.spans, span{recordHeader, n})
	return c, nil
}

func (l *stdLeg) write(c *chunk) error {
	for _, s := range c.spans {
		if _, err := l.conn.Write(c.mem[s.off : s.off+s.n]); err != nil {
			return err
		}
	}
	return nil
}

func (l *stdLeg) closeWrite() error {
	if err := l.conn.CloseWrite(); err != nil {
		return err
	}
	return l.in.sock.tcp.CloseWrite()
}
