// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"
)

const (
	protocolMesh = "curfew-mesh/1"
	protocolJoin = "curfew-join/1"
	// serverName is the same for every node: the real name would be readable on the wire.
	serverName = "curfew"

	maxPending     = 256 // connections from outside that have not said hello
	freeHandshakes = 20  // a second, before the other end must show that it receives at its address
	handshakeBurst = 100

	maxIncomingStreams = 64 // of each kind, of one link
)

// Codes that a connection is closed with; what they say to the other end is for its log alone.
const (
	codeClosing quic.ApplicationErrorCode = iota
	codeRefused
	codeReplaced
	codeProtocol
)

var errTooMany = errors.New("too many connections")

// attempt follows a connection from outside until it is a link.
type attempt struct {
	own     atomic.Pointer[tls.Certificate] // that was shown to it
	settled atomic.Bool                     // it is a link, it joins, or it was counted for what it is
}

type attemptKey struct{}

// newTransport sets what holds for the socket. Retry goes through a limiter: without it an attacker with a
// forged source address has this node send 3.4 times what he spends; with it always, a link needs one
// round trip more.
func (m *Mesh) newTransport(key *quic.StatelessResetKey) *quic.Transport {
	free := rate.NewLimiter(freeHandshakes, handshakeBurst)
	return &quic.Transport{
		Conn:                             m.socket,
		ConnectionIDLength:               8,
		StatelessResetKey:                key,
		DisableVersionNegotiationPackets: true,
		VerifySourceAddress:              func(net.Addr) bool { return !free.Allow() },
		ConnContext:                      m.admit,
		Tracer:                           drops{m.count},
	}
}

// admit bounds the connections that have not said hello, and counts those that never do.
func (m *Mesh) admit(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	if m.pending.Add(1) > maxPending {
		m.pending.Add(-1)
		m.count(EventConnRefused)
		return nil, errTooMany
	}
	a := new(attempt)
	ctx = context.WithValue(ctx, attemptKey{}, a)
	context.AfterFunc(ctx, func() { m.settle(a, EventHandshakeFailed) })
	return ctx, nil
}

// settle says that an attempt is not pending any more; the first word counts. Empty: nothing to count.
func (m *Mesh) settle(a *attempt, event string) {
	if !a.settled.CompareAndSwap(false, true) {
		return
	}
	m.pending.Add(-1)
	if event != "" {
		m.count(event)
	}
}

func (m *Mesh) quicConfig() *quic.Config {
	return &quic.Config{
		Versions:              []quic.Version{quic.Version1},
		HandshakeIdleTimeout:  2 * time.Second,
		MaxIdleTimeout:        10 * time.Second,
		KeepAlivePeriod:       3 * time.Second,
		EnableDatagrams:       true,
		MaxIncomingStreams:    maxIncomingStreams,
		MaxIncomingUniStreams: maxIncomingStreams,
		Tracer:                traceDrops(m.count),
	}
}

// serverTLS answers members with a demand for their certificate, and joiners without.
func (m *Mesh) serverTLS() *tls.Config {
	members := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{protocolMesh},
		SessionTicketsDisabled: true, // each link is a full handshake, so each is verified
		ClientAuth:             tls.RequireAnyClientCert,
		VerifyConnection:       m.verifyConnection,
		GetCertificate:         m.showCertificate,
	}
	joiners := members.Clone()
	joiners.NextProtos = []string{protocolJoin}
	joiners.ClientAuth = tls.NoClientCert
	joiners.VerifyConnection = nil
	choose := members.Clone()
	choose.GetConfigForClient = func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		if m.join != nil && slices.Contains(info.SupportedProtos, protocolJoin) {
			return joiners, nil
		}
		return members, nil
	}
	return choose
}

// showCertificate remembers what it showed, since the answer can change between two handshakes.
func (m *Mesh) showCertificate(info *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert, err := m.trust.Certificate()
	if err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	if a, ok := info.Context().Value(attemptKey{}).(*attempt); ok {
		a.own.Store(cert)
	}
	return cert, nil
}

// clientTLS is for one dial: own is what it shows.
func (m *Mesh) clientTLS(own *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{protocolMesh},
		ServerName:             serverName,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // VerifyConnection does it all: no host name is in a certificate
		VerifyConnection:       m.verifyConnection,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return own, nil
		},
	}
}

// verifyConnection runs at both ends, before the handshake is complete.
func (m *Mesh) verifyConnection(state tls.ConnectionState) error {
	if state.DidResume || state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != protocolMesh {
		return errors.New("not a full TLS 1.3 handshake of a member")
	}
	if _, err := m.verify(state.PeerCertificates); err != nil {
		m.count(EventPeerRefused)
		return err
	}
	return nil
}

// verify returns the name that a chain proves.
func (m *Mesh) verify(chain []*x509.Certificate) (string, error) {
	if len(chain) == 0 {
		return "", errors.New("no certificate")
	}
	name, err := m.trust.Verify(chain)
	if err != nil {
		return "", err
	}
	if name == m.name {
		return "", ErrSelf
	}
	return name, nil
}
