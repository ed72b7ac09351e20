// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"
)

const (
	maxJoins    = 8 // at a time
	joinRate    = 2 // a second
	joinBurst   = 16
	joinTimeout = 15 * time.Second
	joinLinger  = 2 * time.Second

	bindingLabel = "EXPORTER-curfew-join"
	bindingSize  = 32
)

// JoinConn is the one stream of a connection between a node that has no certificate yet and a member.
type JoinConn struct {
	*quic.Stream
	conn    *quic.Conn
	binding []byte
	member  bool // this end is the member
	release func() error
}

// ChannelBinding is the same at both ends of this connection and at no other (RFC 8446 section 7.5): what is
// signed together with it cannot be used elsewhere.
func (c *JoinConn) ChannelBinding() []byte { return c.binding }

// LocalAddr and RemoteAddr are those of the connection.
func (c *JoinConn) LocalAddr() net.Addr  { return c.conn.LocalAddr() }
func (c *JoinConn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// CloseWrite ends the writing direction alone.
func (c *JoinConn) CloseWrite() error { return c.Stream.Close() }

// Close ends the connection. The member first waits for the stranger to do so, who speaks first and so reads
// last; two seconds at most.
func (c *JoinConn) Close() error {
	if c.member {
		_ = c.Stream.Close() // fails only if the stream is over already
		select {
		case <-c.conn.Context().Done():
		case <-time.After(joinLinger):
		}
	}
	return c.release()
}

func newJoinConn(stream *quic.Stream, conn *quic.Conn, release func() error) (*JoinConn, error) {
	state := conn.ConnectionState().TLS
	binding, err := state.ExportKeyingMaterial(bindingLabel, nil, bindingSize)
	if err != nil {
		return nil, fmt.Errorf("bind channel: %w", err)
	}
	return &JoinConn{Stream: stream, conn: conn, binding: binding, release: release}, nil
}

// joinGate bounds what strangers can have done here.
type joinGate struct {
	slots chan struct{}
	rate  *rate.Limiter
}

func newJoinGate() joinGate {
	return joinGate{slots: make(chan struct{}, maxJoins), rate: rate.NewLimiter(joinRate, joinBurst)}
}

// enter takes a slot, or says that there is none.
func (g joinGate) enter() bool {
	select {
	case g.slots <- struct{}{}:
	default:
		return false
	}
	if !g.rate.Allow() {
		<-g.slots
		return false
	}
	return true
}

func (g joinGate) leave() { <-g.slots }

// answerJoin serves a connection of a stranger.
func (m *Mesh) answerJoin(conn *quic.Conn) {
	a := conn.Context().Value(attemptKey{}).(*attempt)
	closing := func() error { return conn.CloseWithError(codeClosing, "done") }
	defer closing()
	if !m.joins.enter() {
		m.settle(a, EventJoinRefused)
		return
	}
	defer m.joins.leave()
	m.settle(a, EventJoinAccepted)
	ctx, cancel := context.WithTimeout(m.ctx, joinTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = closing() })()
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return // it came and went
	}
	c, err := newJoinConn(stream, conn, closing)
	if err != nil {
		m.log.Error("join", "err", err)
		return
	}
	c.member = true
	deadline, _ := ctx.Deadline()
	_ = stream.SetDeadline(deadline) // fails on a closed stream only
	m.join(ctx, c)
	_ = c.Close() // the answer is out, or the other end is gone
}

// DialJoin connects a node that has no certificate yet to a member at addr, from a socket of its own. It shows
// no certificate; verify sees the member's chain, leaf first, and must refuse whoever is not one. The caller
// closes the connection. ctx bounds the dial alone.
func DialJoin(ctx context.Context, addr string, verify func(chain []*x509.Certificate) error) (*JoinConn, error) {
	at, err := resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	transport := &quic.Transport{Conn: socket, ConnectionIDLength: 8}
	release := func() error { return errors.Join(transport.Close(), socket.Close()) }
	c, err := dialJoin(ctx, transport, at, verify, release)
	if err != nil {
		_ = release() // what went wrong before is told
		return nil, err
	}
	return c, nil
}

func dialJoin(ctx context.Context, transport *quic.Transport, at net.Addr,
	verify func([]*x509.Certificate) error, release func() error) (*JoinConn, error) {
	conf := &quic.Config{
		Versions:              []quic.Version{quic.Version1},
		HandshakeIdleTimeout:  2 * time.Second,
		MaxIdleTimeout:        10 * time.Second,
		MaxIncomingStreams:    -1,
		MaxIncomingUniStreams: -1,
	}
	conn, err := transport.Dial(ctx, at, joinTLS(verify), conf)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return newJoinConn(stream, conn, func() error {
		return errors.Join(conn.CloseWithError(codeClosing, "done"), release())
	})
}

func joinTLS(verify func([]*x509.Certificate) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{protocolJoin},
		ServerName:             serverName,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // VerifyConnection does it all
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.Version != tls.VersionTLS13 || len(state.PeerCertificates) == 0 {
				return errors.New("not a TLS 1.3 handshake with a certificate")
			}
			return verify(state.PeerCertificates)
		},
	}
}
