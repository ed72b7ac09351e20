// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/curfew-proxy/curfew/agent/session"
)

// PostgreSQL's way into TLS ("Message Flow" and "Message Formats" of its documentation). The
// client begins in clear, with a length and a code:
//
//	GSSENCRequest   answered N: not here; the client goes on
//	SSLRequest      answered S: TLS follows
//	StartupMessage  a client without TLS: refused, in words that psql shows
//	CancelRequest   carries a process number and a secret, but no identity; see below
//	0x16            TLS at once (libpq 17, sslnegotiation=direct)
//
// CancelRequest. libpq before 17 sends it in clear even where the connection is encrypted, on a
// connection of its own and without a certificate. So it is refused, and Ctrl-C in an old psql
// does nothing, unless the service says allow_cancel. Then it is taken for a connection of a
// session that has a live one from the same address to the same service, and goes through policy,
// gate and account as such. The 32-bit secret that it carries is the server's to check.
const (
	postgresStartup = 3 << 16 // protocol 3.0; the minor number is in the lower half
	postgresCancel  = 80877102
	postgresSSL     = 80877103
	postgresGSS     = 80877104

	tlsHandshakeByte = 0x16

	// maxPostgresPreamble is MAX_STARTUP_PACKET_LENGTH of the server.
	maxPostgresPreamble = 10000
	// maxPostgresCancel: 16 bytes in protocol 3.0, keys of up to 256 bytes from 3.2 on.
	minPostgresCancel, maxPostgresCancel = 16, 12 + 256
)

// preamble is what the first bytes of a PostgreSQL client ask for.
type preamble uint8

const (
	preambleShort   preamble = iota // more bytes are needed to tell
	preambleBad                     // not the protocol, or too long
	preambleTLS                     // a TLS ClientHello
	preambleGSS                     // GSSENCRequest
	preambleSSL                     // SSLRequest
	preambleCancel                  // CancelRequest
	preambleStartup                 // StartupMessage, or an old protocol's
)

// parsePreamble reads the first bytes of a client, which may be any. size is the length of the
// message where there is one.
func parsePreamble(b []byte) (p preamble, size int) {
	if len(b) > 0 && b[0] == tlsHandshakeByte {
		return preambleTLS, 0
	}
	if len(b) > 0 && b[0] != 0 {
		return preambleBad, 0
	}
	if len(b) < 8 {
		return preambleShort, 8
	}
	n, code := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	switch {
	case n < 8 || n > maxPostgresPreamble:
		return preambleBad, 0
	case code == postgresGSS && n == 8:
		return preambleGSS, 8
	case code == postgresSSL && n == 8:
		return preambleSSL, 8
	case code == postgresCancel && n >= minPostgresCancel && n <= maxPostgresCancel:
		return preambleCancel, int(n)
	case code>>16 >= 1 && code>>16 <= 3:
		return preambleStartup, int(n)
	}
	return preambleBad, 0
}

// postgresPreamble reads what a client sends before TLS, on the port of a PostgreSQL service or on
// the shared one, where the service is not known yet. It returns neither leg nor error when TLS is
// what follows. A leg beside an error is cleartext.
func (c *conn) postgresPreamble(in *recordConn) (leg, error) {
	var gss bool
	for {
		b, err := in.peek(1)
		p, size := parsePreamble(b)
		if err == nil && p == preambleShort {
			b, err = in.peek(size)
			p, size = parsePreamble(b)
		}
		if err != nil {
			return nil, in.refusal(err)
		}
		c.postgres = c.postgres || p != preambleTLS && p != preambleBad
		switch {
		case p == preambleTLS:
			return nil, nil
		case p == preambleGSS && !gss && len(b) == size:
			gss = true
			in.advance(size)
			if err := c.sock.send([]byte("N")); err != nil {
				return nil, session.Refuse(session.ReasonHandshake, err)
			}
		case p == preambleSSL:
			if len(b) > size { // CVE-2021-23222: somebody put bytes before the encryption
				return nil, session.Refuse(session.ReasonHandshake, errors.New("bytes behind SSLRequest"))
			}
			in.advance(size)
			return nil, c.acceptPostgresTLS()
		case p == preambleStartup:
			return &plainLeg{sock: c.sock}, session.Refuse(session.ReasonNoCertificate, errors.New("cleartext StartupMessage"))
		case p == preambleCancel:
			return c.postgresCancel(in, size)
		default:
			return nil, session.Refuse(session.ReasonHandshake, errors.New("not the PostgreSQL protocol"))
		}
	}
}

func (c *conn) acceptPostgresTLS() error {
	if err := c.sock.send([]byte("S")); err != nil {
		return session.Refuse(session.ReasonHandshake, err)
	}
	return nil
}

// postgresCancel takes a cleartext CancelRequest in where the service allows it.
func (c *conn) postgresCancel(in *recordConn, size int) (leg, error) {
	if c.service == nil || !c.service.AllowCancel {
		return nil, session.Refuse(session.ReasonNoCertificate, errors.New("cleartext CancelRequest"))
	}
	b, err := in.peek(size)
	if err != nil {
		return nil, in.refusal(err)
	}
	if len(b) != size {
		return nil, session.Refuse(session.ReasonHandshake, errors.New("bytes behind CancelRequest"))
	}
	c.session = c.proxy.live.sibling(c)
	if c.session == nil {
		return nil, session.Refuse(session.ReasonNoCertificate, errors.New("CancelRequest from an address without a live connection"))
	}
	c.plain = true
	return &plainLeg{sock: c.sock, head: in.release()}, nil
}

// requestPostgresTLS asks an upstream for TLS, as a client.
func requestPostgresTLS(in *recordConn) error {
	request := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 8), postgresSSL)
	if err := in.sock.send(request); err != nil {
		return fmt.Errorf("SSLRequest: %w", err)
	}
	b, err := in.peek(1)
	if err != nil {
		return fmt.Errorf("SSLRequest: %w", err)
	}
	if len(b) != 1 || b[0] != 'S' {
		return errors.New("the upstream does not speak TLS")
	}
	in.advance(1)
	return nil
}

// postgresError is an ErrorResponse that ends a connection; psql shows its message and hint.
func postgresError(r Refused) []byte {
	message, hint := "curfew: "+string(r.Reason), ""
	code := "28000" // invalid_authorization_specification
	switch r.Reason {
	case session.ReasonNoCertificate:
		message = "curfew: this service asks for TLS with a client certificate"
		hint = "Sign in with \"curfew login\", then connect with sslmode=require, sslcert and sslkey."
	case session.ReasonUnknownKey:
		message = "curfew: no session for this client key"
		hint = "Sign in with \"curfew login\"."
	case session.ReasonDenied, session.ReasonPolicy:
		message = "curfew: policy does not allow you to use " + r.Service
	case session.ReasonStepUp:
		message = "curfew: " + r.Service + " asks for a stronger or fresher sign-in"
		hint = "Sign in again with \"curfew login --service " + r.Service + "\"."
	case session.ReasonTooMany:
		message, code = "curfew: too many connections", "53300"
	case session.ReasonUpstreamRefused, session.ReasonUpstreamTimeout, session.ReasonUpstreamTLS:
		message, code = "curfew: the upstream of "+r.Service+" cannot be reached", "08006"
	}
	var ended *session.EndedError
	if errors.As(r.Err, &ended) {
		message = "curfew: " + ended.Error()
		hint = "Sign in again with \"curfew login\"."
	}
	b := []byte{'E', 0, 0, 0, 0}
	field := func(typ byte, value string) {
		b = append(append(append(b, typ), value...), 0)
	}
	field('S', "FATAL")
	field('V', "FATAL")
	field('C', code)
	field('M', message)
	if hint != "" {
		field('H', hint)
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-1))
	return b
}
