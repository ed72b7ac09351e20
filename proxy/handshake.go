// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Protocols that clients may ask for (RFC 7301).
const (
	alpnCurfew   = "curfew"     // curfew connect
	alpnPostgres = "postgresql" // libpq 17 and newer, sslnegotiation=direct
	alpnHTTP     = "http/1.1"   // the API
)

// handshake is one TLS handshake with a client.
//
// Any self-signed certificate is accepted: the handshake proves possession of its key, and the
// session table says what the key is worth. Under TLS 1.3 the key is looked up when the handshake
// is complete: only then is possession proven, the client has sent its last flight anyway, and
// the alert is ours to choose (crypto/tls sends bad_certificate and nothing else). Under TLS 1.2
// a client that finished would believe to be in, so there the lookup is part of the handshake.
type handshake struct {
	conn    *conn
	service *service // nil until SNI has chosen it
	secrets secrets
	refusal error // why our callbacks ended it
}

// handshake makes the client's leg of a TLS connection and finds its session. The leg is not nil
// where an error can still be told to the client. Leg and error are both nil when the connection
// went to the API.
func (c *conn) handshake(b *binding) (leg, error) {
	c.setDeadline(time.Now().Add(c.proxy.cfg.Limits.Handshake))
	in := newRecordConn(c.sock)
	h := &handshake{conn: c, service: b.service}
	if b.kind == shared || b.service.Protocol == ProtocolPostgres {
		if l, err := c.postgresPreamble(in); l != nil || err != nil {
			return l, err
		}
	}
	config := h.serverConfig()
	if b.kind == shared {
		config.GetConfigForClient = h.route
	}
	conn := tls.Server(in, config)
	if err := conn.Handshake(); err != nil {
		if h.refusal != nil {
			err = h.refusal
		}
		return nil, in.refusal(err)
	}
	c.setDeadline(time.Time{})
	if h.service == nil {
		c.handOver(conn)
		return nil, nil
	}
	c.service = h.service
	c.postgres = c.postgres || h.service.Protocol == ProtocolPostgres
	client, err := h.secrets.takeOver(conn, in, false)
	if err != nil {
		return nil, session.Refuse(session.ReasonInternal, err)
	}
	if c.session == nil {
		err = h.lookUp(conn.ConnectionState())
	}
	return client, err
}

// serverConfig is for this handshake only: it carries its state.
func (h *handshake) serverConfig() *tls.Config {
	config := &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		GetCertificate:              h.conn.proxy.cfg.Certificate,
		ClientAuth:                  tls.RequestClientCert,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		KeyLogWriter:                &h.secrets,
	}
	if h.service != nil {
		config.MinVersion = h.service.minTLS
		config.NextProtos = h.service.protos
		config.VerifyConnection = h.verifyTLS12
	}
	return config
}

// route implements tls.Config.GetConfigForClient for the shared port.
func (h *handshake) route(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	routes := h.conn.proxy.routes.Load()
	if h.service = routes.lookup(hello.ServerName); h.service != nil {
		h.conn.service = h.service
		return h.serverConfig(), nil
	}
	if !routes.api || h.conn.postgres || slices.Contains(hello.SupportedProtos, alpnCurfew) {
		h.refusal = session.Refuse(session.ReasonUnknownService, errors.New("server name "+hello.ServerName))
		return &tls.Config{}, nil // no certificate: crypto/tls sends unrecognized_name
	}
	config := h.serverConfig()
	config.KeyLogWriter = nil
	config.NextProtos = []string{alpnHTTP}
	return config, nil
}

func (h *handshake) verifyTLS12(state tls.ConnectionState) error {
	if state.Version >= tls.VersionTLS13 || h.service.Protocol == ProtocolPostgres {
		return nil // looked up later: see the type's comment, and postgres.go
	}
	h.refusal = h.lookUp(state)
	return h.refusal
}

// lookUp finds the session of the client's key and gives it to the connection.
func (h *handshake) lookUp(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return session.Refuse(session.ReasonNoCertificate, nil)
	}
	s, err := h.conn.proxy.cfg.Sessions.ByKey(session.KeyOf(state.PeerCertificates[0]))
	if err != nil {
		return err
	}
	h.conn.session = &s
	return nil
}

// refusal gives the error of a handshake over c the reason that it is refused for.
func (c *recordConn) refusal(err error) error {
	switch {
	case session.ReasonOf(err) != session.ReasonInternal:
		return err // one of ours
	case !c.any && errors.Is(err, io.EOF):
		return session.Refuse(session.ReasonClientClosed, nil) // a port check
	case errors.Is(err, os.ErrDeadlineExceeded):
		return session.Refuse(session.ReasonHandshakeTime, err)
	}
	return session.Refuse(session.ReasonHandshake, err)
}

// alertFor is the TLS alert that tells a client of a refusal (RFC 8446, section 6.2).
func alertFor(reason session.Reason, err error) uint8 {
	var ended *session.EndedError
	switch {
	case errors.As(err, &ended):
		return alertCertificateRevoked
	case reason == session.ReasonUnknownKey:
		return alertCertificateUnknown
	case reason == session.ReasonNoCertificate:
		return alertCertificateRequired
	case reason == session.ReasonDenied, reason == session.ReasonPolicy, reason == session.ReasonStepUp:
		return alertAccessDenied
	}
	return alertInternalError
}
