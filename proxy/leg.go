// SPDX-License-Identifier: Apache-2.0

package proxy

import "io"

// leg is one side of a relay: payload in, payload out, each closed on its own. One goroutine may
// read and one may write at the same time. This is all that the relay knows of a side, so that
// another record engine (kTLS) can take its place.
type leg interface {
	// read waits, holding no buffer, and returns the payload that came, at least a byte. The
	// caller frees the chunk. Returns io.EOF when the peer will send no more.
	read() (*chunk, error)
	// write sends all of c's payload and blocks while the peer takes none. c's memory may be
	// overwritten, but it still belongs to the caller.
	write(c *chunk) error
	// closeWrite tells the peer that no more will come; reading goes on.
	closeWrite() error
}

// alerter is a leg that can end with a TLS alert of the proxy's choice.
type alerter interface {
	alert(description uint8) error
}

// plainLeg is payload as it is on the wire.
type plainLeg struct {
	sock *socket
	head []byte // bytes that were read ahead of the relay
}

func (l *plainLeg) read() (*chunk, error) {
	if len(l.head) > 0 {
		c := getChunk(false)
		n := copy(c.mem[recordHeader:recordHeader+maxPayload], l.head)
		c.spans = append(c.spans, span{recordHeader, n})
		l.head = l.head[n:]
		return c, nil
	}
	return l.sock.scatter()
}

func (l *plainLeg) write(c *chunk) error { return l.sock.send(c.gather()...) }

func (l *plainLeg) closeWrite() error { return l.sock.tcp.CloseWrite() }

// writeBytes sends p through l, as payload.
func writeBytes(l leg, p []byte) error {
	for len(p) > 0 {
		c := getChunk(false)
		n := copy(c.mem[recordHeader:recordHeader+maxPayload], p)
		c.spans = append(c.spans, span{recordHeader, n})
		err := l.write(c)
		c.free()
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// pump moves payload from src to dst until src ends, and then closes dst for writing. note is
// told of the bytes before they are passed on.
func pump(dst, src leg, note func(int)) error {
	for {
		c, err := src.read()
		if err == io.EOF {
			return io.EOF
		}
		if err != nil {
			return &legError{src, err}
		}
		note(c.payload())
		err = dst.write(c)
		c.free()
		if err != nil {
			return &legError{dst, err}
		}
	}
}

// legError says which leg an error came from.
type legError struct {
	leg leg
	err error
}

func (e *legError) Error() string { return e.err.Error() }
func (e *legError) Unwrap() error { return e.err }
