// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	helloTimeout = 2 * time.Second
	dialTimeout  = 5 * time.Second // handshake and hello

	drainQuiet = time.Second      // a replaced link ends when it had no stream for that long
	drainLimit = 15 * time.Second // or after that, come what may
)

// link is one connection to a peer, from its hello on.
//
//	handshake ──> hello ──> adopted by its peer ──> in use ──> replaced, drains ──> closed
//	    └────────────┴───────────── refused ──────────┴── swept, expired, lost ───────┘
type link struct {
	mesh    *Mesh
	conn    *quic.Conn
	dialled bool                // by this node
	own     *x509.Certificate   // that this node showed
	chain   []*x509.Certificate // that the peer showed, leaf first
	since   time.Time

	name string // by the certificate
	boot uint64 // by the hello
	peer *peer

	expiry *time.Timer
	large  chan struct{} // a slot for each large packet on its way out
	open   atomic.Int64  // streams in use at this end

	sent, received atomic.Uint64 // packets
}

func (m *Mesh) newLink(conn *quic.Conn, dialled bool, own *tls.Certificate) *link {
	return &link{
		mesh: m, conn: conn, dialled: dialled, own: own.Leaf,
		chain: conn.ConnectionState().TLS.PeerCertificates,
		since: time.Now(), large: make(chan struct{}, maxLarge),
	}
}

// accept takes connections from outside until the mesh is closed.
func (m *Mesh) accept() {
	for {
		conn, err := m.listener.Accept(m.ctx)
		if err != nil {
			if m.ctx.Err() == nil {
				m.log.Error("mesh does not listen any more", "err", err)
			}
			return
		}
		serve := func() { m.answer(conn) }
		if conn.ConnectionState().TLS.NegotiatedProtocol == protocolJoin {
			serve = func() { m.answerJoin(conn) }
		}
		if !m.spawn(serve) {
			_ = conn.CloseWithError(codeClosing, "closing") // nothing was said yet
		}
	}
}

// answer makes a link of a connection from outside.
func (m *Mesh) answer(conn *quic.Conn) {
	a := conn.Context().Value(attemptKey{}).(*attempt)
	l := m.newLink(conn, false, a.own.Load())
	ctx, cancel := context.WithTimeout(m.ctx, helloTimeout)
	defer cancel()
	if err := m.establish(ctx, l, ""); err != nil {
		m.settle(a, EventHandshakeFailed)
		m.log.Debug("connection refused", "addr", conn.RemoteAddr().String(), "err", err)
		return
	}
	m.settle(a, "")
}

// dial makes a link to whoever answers at addr, who must be called want unless that is empty.
func (m *Mesh) dial(ctx context.Context, addr, want string) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	at, err := resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	own, err := m.trust.Certificate()
	if err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	conn, err := m.transport.Dial(ctx, at, m.clientTLS(own), m.quicConfig())
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	l := m.newLink(conn, true, own)
	if err := m.establish(ctx, l, want); err != nil {
		return nil, err
	}
	return l, nil
}

// resolve asks anew each time: a node that moved keeps its host name.
func resolve(ctx context.Context, addr string) (*net.UDPAddr, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("resolve: %w", err)
	}
	return &net.UDPAddr{IP: ips[0].Unmap().AsSlice(), Port: number, Zone: ips[0].Zone()}, nil
}

// establish registers a link, so that a sweep finds it, and only then asks whether its peer is trusted:
// whoever is denied in between is caught by the one or by the other. Then hello, and its peer adopts it.
// If it fails, the connection is closed.
func (m *Mesh) establish(ctx context.Context, l *link, want string) (err error) {
	defer func() {
		if err != nil {
			l.close(codeRefused, "refused")
		}
	}()
	if err := m.register(l); err != nil {
		return err
	}
	if l.name, err = m.verify(l.chain); err != nil {
		return err
	}
	if want != "" && l.name != want {
		m.count(EventNameRefused)
		return fmt.Errorf("%q answered where %q was expected", l.name, want)
	}
	if l.boot, err = l.greet(ctx); err != nil {
		return err
	}
	p, err := m.peer(l.name)
	if err != nil {
		return err
	}
	l.peer = p
	leaf := l.chain[0]
	l.expiry = time.AfterFunc(time.Until(leaf.NotAfter), func() {
		m.count(EventLinkSwept)
		l.close(codeRefused, "certificate expired")
	})
	context.AfterFunc(l.conn.Context(), func() { m.lost(l) })
	if !m.receive(l) {
		return ErrClosed
	}
	p.adopt(l)
	return nil
}

// register makes a link known to sweeps.
func (m *Mesh) register(l *link) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return ErrClosed
	}
	m.links[l] = struct{}{}
	context.AfterFunc(l.conn.Context(), func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.links, l)
	})
	return nil
}

// lost takes a link from its peer when its connection is over.
func (m *Mesh) lost(l *link) {
	l.expiry.Stop()
	if l.peer.drop(l) {
		m.count(EventLinkDown)
		m.log.Info("link is down", "peer", l.name, "cause", context.Cause(l.conn.Context()))
	}
}

// greet exchanges hellos: the dialler's first. A dialler that reads one knows that the other end has verified
// its certificate, which the end of the TLS handshake does not say.
func (l *link) greet(ctx context.Context) (boot uint64, err error) {
	var stream *quic.Stream
	if l.dialled {
		stream, err = l.conn.OpenStreamSync(ctx)
	} else {
		stream, err = l.conn.AcceptStream(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("hello: %w", err)
	}
	deadline, _ := ctx.Deadline()
	_ = stream.SetDeadline(deadline) // fails on a closed stream only, which the next call says
	say := func() error {
		_, err := stream.Write(hello{boot: l.mesh.boot, name: l.mesh.name}.encode())
		return errors.Join(err, stream.Close())
	}
	if l.dialled {
		if err := say(); err != nil {
			return 0, fmt.Errorf("hello: %w", err)
		}
	}
	h, err := readHello(stream)
	if err == nil && h.name != l.name {
		err = fmt.Errorf("%w: its certificate says %q, it says %q", errHello, l.name, h.name)
	}
	if err != nil {
		l.mesh.count(EventHelloRefused)
		return 0, err
	}
	stream.CancelRead(0)
	if !l.dialled {
		if err := say(); err != nil {
			return 0, fmt.Errorf("hello: %w", err)
		}
	}
	return h.boot, nil
}

// alive is false from the instant that the connection is over or is being closed.
func (l *link) alive() bool { return l.conn.Context().Err() == nil }

// close ends the connection at once; text goes to the other end.
func (l *link) close(code quic.ApplicationErrorCode, text string) {
	_ = l.conn.CloseWithError(code, text) // an error says that it is closed already
}

// supersedes says whether a link that came after old shall be used instead. Both ends see the same boots,
// certificates and diallers, so both answer alike, in whichever order they saw the two.
func (l *link) supersedes(old *link) bool {
	switch {
	case !old.alive() || l.boot != old.boot:
		return true
	case l.age().Cmp(old.age()) != 0:
		return l.age().Cmp(old.age()) > 0
	case l.dialled != old.dialled:
		return l.dialled == (l.mesh.name < l.name) // the one that the smaller name dialled
	default:
		return true // one end dials one at a time: the later is the one that it wants
	}
}

// drain closes a link that was replaced once what began on it is done.
func (l *link) drain() {
	ticker := time.NewTicker(drainQuiet / 4)
	defer ticker.Stop()
	begin := time.Now()
	quiet := begin
	for {
		select {
		case <-l.conn.Context().Done():
			return
		case <-l.mesh.ctx.Done():
			return
		case now := <-ticker.C:
			if l.open.Load() > 0 {
				quiet = now
			}
			if now.Sub(quiet) >= drainQuiet || now.Sub(begin) >= drainLimit {
				l.close(codeReplaced, "replaced")
				return
			}
		}
	}
}
