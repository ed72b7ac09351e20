// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// dial connects to the service's upstream and makes its leg, all within the upstream's timeout:
// TCP, PROXY header, and TLS where it is asked for.
func (c *conn) dial() (leg, error) {
	to := &c.service.Upstream
	ctx, cancel := c.dialing(to.Timeout)
	defer cancel()
	tcp, err := dialTCP(ctx, to.Address)
	if err != nil {
		return nil, upstreamRefusal(session.ReasonUpstreamRefused, err)
	}
	c.dialled(tcp)
	sock, err := newSocket(tcp)
	if err != nil {
		return nil, err
	}
	if to.ProxyProtocol {
		if err := sock.send(proxyHeader(c)); err != nil {
			return nil, upstreamRefusal(session.ReasonUpstreamRefused, fmt.Errorf("PROXY header: %w", err))
		}
	}
	if to.TLS == nil {
		return &plainLeg{sock: sock}, nil
	}
	l, err := c.dialTLS(ctx, sock)
	if err != nil {
		return nil, upstreamRefusal(session.ReasonUpstreamTLS, err)
	}
	return l, nil
}

// dialTCP tries all addresses of a host name, IPv6 and IPv4 in parallel (RFC 8305). The local
// address is left open: to bind it would use up ports under churn. Keepalive is the Gate's.
func dialTCP(ctx context.Context, address string) (*net.TCPConn, error) {
	d := net.Dialer{KeepAlive: -1}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// dialTLS runs the client's side of a handshake with the upstream, until ctx's deadline.
func (c *conn) dialTLS(ctx context.Context, sock *socket) (leg, error) {
	until, _ := ctx.Deadline()
	c.setUpstreamDeadline(until)
	in := newRecordConn(sock)
	if c.service.Protocol == ProtocolPostgres {
		if err := requestPostgresTLS(in); err != nil {
			return nil, err
		}
	}
	var s secrets
	config := c.service.Upstream.TLS.Clone()
	config.KeyLogWriter = &s
	config.DynamicRecordSizingDisabled = true
	conn := tls.Client(in, config)
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	c.setUpstreamDeadline(time.Time{})
	return s.takeOver(conn, in, true)
}

func (c *conn) setUpstreamDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		_ = c.upstream.SetDeadline(t) // fails on a closed socket only
	}
}

// upstreamRefusal gives err the reason, or that of a timeout where it is one.
func upstreamRefusal(reason session.Reason, err error) error {
	var ne net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &ne) && ne.Timeout() {
		reason = session.ReasonUpstreamTimeout
	}
	return session.Refuse(reason, err)
}
