// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
)

// echo is an upstream that sends back what it gets, and says how its connections ended.
type echo struct {
	addr string
	ends chan error // one for each connection
}

func startEcho(t *testing.T) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{addr: l.Addr().String(), ends: make(chan error, 20_000)}
	var conns sync.WaitGroup
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				_, err := io.Copy(c, c)
				e.ends <- err
			})
		}
	}()
	t.Cleanup(func() { l.Close() })
	return e
}

// service is YAML for a service.
func service(name, listen, upstream, more string) string {
	return fmt.Sprintf("  - {name: %s, listen: [%q], upstream: %q, allow: 'true', tls_min: \"1.3\"%s}\n", name, listen, upstream, more)
}

func dialTLS(t *testing.T, addr string, creds harness.Credentials) (*tls.Conn, error) {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: harness.Patience}, "tcp", addr, creds.TLS(t, ""))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	return conn, nil
}

// roundTrip sends a message and waits for its echo: with TLS 1.3 only this shows that the client was let in.
func roundTrip(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("ping")); err != nil {
		return err
	}
	buf := make([]byte, 4)
	_, err := io.ReadFull(conn, buf)
	return err
}

func mustConnect(t *testing.T, addr string, creds harness.Credentials) *tls.Conn {
	t.Helper()
	conn, err := dialTLS(t, addr, creds)
	if err == nil {
		err = roundTrip(conn)
	}
	if err != nil {
		t.Fatalf("connect to %s: %v", addr, err)
	}
	return conn
}

// mustRefuse fails the test if the credentials are let in.
func mustRefuse(t *testing.T, addr string, creds harness.Credentials) {
	t.Helper()
	conn, err := dialTLS(t, addr, creds)
	if err == nil {
		err = roundTrip(conn)
	}
	if err == nil {
		t.Fatal("let in, and should not have been")
	}
}

// mustClose waits until the connection has ended, in whatever way.
func mustClose(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection goes on")
	}
}

// mustEnd waits until the connection is reset.
func mustEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, conn)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the connection ended with %v, want a reset", err)
	}
}
