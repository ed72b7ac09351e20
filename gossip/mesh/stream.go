// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

const kindTimeout = 2 * time.Second // for the first byte of a stream that was opened

// Dial opens a stream. Without a name it goes to whoever answers at Addr and is a member: that is how a node
// finds its first peers. It returns ErrSelf if that is this node, and an error if the link cannot be made or
// if ctx ends first. The caller closes the stream.
func (m *Mesh) Dial(ctx context.Context, to Peer, kind byte) (net.Conn, error) {
	l, err := m.linkTo(ctx, to)
	if err != nil {
		return nil, fmt.Errorf("dial %s at %s: %w", to.Name, to.Addr, err)
	}
	stream, err := l.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	conn := l.newConn(stream)
	// The other end hears of a stream only with its first byte.
	if _, err := stream.Write([]byte{kind}); err != nil {
		_ = conn.Close() // what went wrong is told
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return conn, nil
}

func (m *Mesh) linkTo(ctx context.Context, to Peer) (*link, error) {
	if to.Name == "" {
		to.Name = m.nameAt(to.Addr)
	}
	if to.Name == "" {
		l, err := m.dial(ctx, to.Addr, "")
		if err != nil {
			return nil, err
		}
		return l.peer.connect(ctx, "") // which can be a link that was there before
	}
	p, err := m.peer(to.Name)
	if err != nil {
		return nil, err
	}
	return p.connect(ctx, to.Addr)
}

func (l *link) receiveStreams() {
	for {
		stream, err := l.conn.AcceptStream(l.conn.Context())
		if err != nil {
			return // the link is over
		}
		if !l.mesh.spawn(func() { l.receiveStream(stream) }) {
			return
		}
	}
}

// receiveStream reads the kind of a stream, in a goroutine of its own since it can be long in coming.
func (l *link) receiveStream(stream *quic.Stream) {
	conn := l.newConn(stream)
	_ = stream.SetReadDeadline(time.Now().Add(kindTimeout)) // the read says if the stream is closed
	var kind [1]byte
	if _, err := io.ReadFull(stream, kind[:]); err != nil {
		l.refuse(conn)
		return
	}
	_ = stream.SetReadDeadline(time.Time{}) // as above
	select {
	case l.mesh.streams <- Stream{From: l.name, Kind: kind[0], Conn: conn}:
	default:
		l.refuse(conn)
	}
}

func (l *link) refuse(conn *streamConn) {
	l.mesh.count(EventStreamRefused)
	conn.CancelWrite(quic.StreamErrorCode(codeRefused))
	_ = conn.Close() // nothing was written
}

// streamConn makes a net.Conn of a stream. Close ends both directions; what was written still arrives.
type streamConn struct {
	*quic.Stream
	conn *quic.Conn
	once sync.Once
	done func()
}

func (l *link) newConn(stream *quic.Stream) *streamConn {
	l.open.Add(1)
	return &streamConn{Stream: stream, conn: l.conn, done: func() { l.open.Add(-1) }}
}

func (c *streamConn) LocalAddr() net.Addr  { return c.conn.LocalAddr() }
func (c *streamConn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// CloseWrite ends the writing direction alone.
func (c *streamConn) CloseWrite() error { return c.Stream.Close() }

func (c *streamConn) Close() error {
	var err error
	c.once.Do(func() {
		c.CancelRead(0)
		err = c.Stream.Close()
		c.done()
	})
	return err
}
