// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"golang.org/x/sys/unix"
)

// refusals runs a client against one of many services and expects one Refused.
type refusal struct {
	name   string
	addr   string // of badRig
	client func(*testing.T, *rig, net.Conn)
	want   session.Reason
}

// raw sends bytes and waits for the proxy to close.
func raw(b []byte) func(*testing.T, *rig, net.Conn) {
	return func(_ *testing.T, _ *rig, c net.Conn) {
		_, _ = c.Write(b)
		_, _ = io.Copy(io.Discard, c)
	}
}

// shake runs a handshake with a changed configuration and then reads to the end.
func shake(change func(*testing.T, *rig, *tls.Config)) func(*testing.T, *rig, net.Conn) {
	return func(t *testing.T, r *rig, c net.Conn) {
		config := r.tlsConfig(r.client)
		change(t, r, config)
		conn := tls.Client(c, config)
		if conn.Handshake() == nil {
			_, _ = io.Copy(io.Discard, conn)
		}
	}
}

func nothing(*testing.T, *rig, *tls.Config) {}

// hello is a whole ClientHello record.
func hello(t testing.TB) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	go func() { _ = tls.Client(server, &tls.Config{InsecureSkipVerify: true}).Handshake() }()
	b := make([]byte, 1<<14)
	n, err := client.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func cutHello(t *testing.T, _ *rig, c net.Conn) {
	b := hello(t)
	_, _ = c.Write(b[:len(b)/2])
	_ = c.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, c)
}

// drip sends a ClientHello so slowly that it never ends.
func drip(t *testing.T, _ *rig, c net.Conn) {
	for _, b := range hello(t) {
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func strangerKey(t *testing.T, _ *rig, c *tls.Config) {
	c.Certificates = []tls.Certificate{newCert(t, "stranger")}
}

// borrowedCertificate shows the certificate of a live session, without having its key.
func borrowedCertificate(t *testing.T, r *rig, c *tls.Config) {
	c.Certificates = []tls.Certificate{{Certificate: r.client.Certificate, PrivateKey: newCert(t, "thief").PrivateKey}}
}

func endedKey(t *testing.T, r *rig, c *tls.Config) {
	cert := newCert(t, "former")
	r.mu.Lock()
	r.ended[session.KeyOf(cert.Leaf)] = &session.EndedError{ID: session.NewID(), End: session.End{Reason: session.ReasonKilled}}
	r.mu.Unlock()
	c.Certificates = []tls.Certificate{cert}
}

var refusals = []refusal{
	{"garbage", "db", raw(bytes.Repeat([]byte{0xA5, 1, 2}, 1000)), session.ReasonHandshake},
	{"http", "db", raw([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")), session.ReasonHandshake},
	{"half a hello", "db", cutHello, session.ReasonHandshake},
	{"silent", "db", raw(nil), session.ReasonHandshakeTime},
	{"slow bytes", "db", drip, session.ReasonHandshakeTime},
	{"port check", "db", func(_ *testing.T, _ *rig, c net.Conn) { c.Close() }, session.ReasonClientClosed},
	{"unknown key", "db", shake(strangerKey), session.ReasonUnknownKey},
	{"unknown key, TLS 1.2", "old", shake(func(t *testing.T, r *rig, c *tls.Config) {
		strangerKey(t, r, c)
		c.MaxVersion = tls.VersionTLS12
	}), session.ReasonUnknownKey},
	{"another's certificate", "db", shake(borrowedCertificate), session.ReasonHandshake},
	{"another's certificate, TLS 1.2", "old", shake(func(t *testing.T, r *rig, c *tls.Config) {
		borrowedCertificate(t, r, c)
		c.MaxVersion = tls.VersionTLS12
	}), session.ReasonHandshake},
	{"ended session", "db", shake(endedKey), session.ReasonKilled},
	{"no certificate", "db", shake(func(_ *testing.T, _ *rig, c *tls.Config) { c.Certificates = nil }), session.ReasonNoCertificate},
	{"TLS 1.2", "db", shake(func(_ *testing.T, _ *rig, c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), session.ReasonHandshake},
	{"wrong ALPN", "db", shake(func(_ *testing.T, _ *rig, c *tls.Config) { c.NextProtos = []string{"h2"} }), session.ReasonHandshake},
	{"policy", "db", func(t *testing.T, r *rig, c net.Conn) {
		r.denyAll()
		shake(nothing)(t, r, c)
	}, session.ReasonDenied},
	{"gate", "db", func(t *testing.T, r *rig, c net.Conn) {
		r.mu.Lock()
		r.noGate = errors.New("map full")
		r.mu.Unlock()
		shake(nothing)(t, r, c)
	}, session.ReasonRegister},
	{"upstream refuses", "closed", shake(nothing), session.ReasonUpstreamRefused},
	{"upstream hangs before accept", "full", shake(nothing), session.ReasonUpstreamTimeout},
	{"upstream hangs in TLS", "mute", shake(nothing), session.ReasonUpstreamTimeout},
	{"upstream resets in TLS", "rude", shake(nothing), session.ReasonUpstreamTLS},
	{"upstream without PostgreSQL TLS", "pgmute", shake(func(_ *testing.T, _ *rig, c *tls.Config) { c.NextProtos = []string{alpnPostgres} }), session.ReasonUpstreamTLS},
	{"unknown server name", "gateway", shake(func(_ *testing.T, _ *rig, c *tls.Config) {
		c.ServerName, c.NextProtos = "nope.test", []string{alpnCurfew}
	}), session.ReasonUnknownService},
	{"shared: http", "gateway", raw([]byte("GET / HTTP/1.1\r\n\r\n")), session.ReasonHandshake},
	{"shared: cancel", "gateway", raw([]byte("\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x01\x00\x00\x00\x02")), session.ReasonNoCertificate},
	{"address not bound", "plain", raw(nil), session.ReasonBoundAddress},
	{"postgres: garbage", "pg", raw([]byte("hello, server")), session.ReasonHandshake},
	{"postgres: oversized preamble", "pg", raw([]byte{0, 1, 0, 0, 0, 3, 0, 0}), session.ReasonHandshake},
	{"postgres: half a preamble", "pg", raw([]byte{0, 0, 0}), session.ReasonHandshakeTime},
	{"postgres: cleartext", "pg", raw([]byte("\x00\x00\x00\x10\x00\x03\x00\x00user\x00a\x00\x00")), session.ReasonNoCertificate},
	{"postgres: cancel", "pg", raw([]byte("\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x01\x00\x00\x00\x02")), session.ReasonNoCertificate},
	{"postgres: bytes behind SSLRequest", "pg", raw([]byte("\x00\x00\x00\x08\x04\xd2\x16\x2fSELECT")), session.ReasonHandshake},
	{"postgres: GSS twice", "pg", func(_ *testing.T, _ *rig, c net.Conn) {
		gss := []byte("\x00\x00\x00\x08\x04\xd2\x16\x30")
		_, _ = c.Write(gss)
		_, _ = io.ReadFull(c, make([]byte, 1))
		raw(gss)(nil, nil, c)
	}, session.ReasonHandshake},
}

// badUpstreams answer in every way but the right one; those not listed echo.
var badUpstreams = map[string]func(*testing.T) string{
	"closed": func(t *testing.T) string {
		l := listenTCP(t, "127.0.0.1:0")
		l.Close()
		return l.Addr().String()
	},
	"full": fullBacklog,
	"mute": func(t *testing.T) string {
		return upstream(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	},
	"rude": func(t *testing.T) string {
		return upstream(t, func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 1)); _ = c.SetLinger(0) })
	},
	"pgmute": func(t *testing.T) string {
		return upstream(t, func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 8))
			_, _ = c.Write([]byte("N"))
		})
	},
}

// badRig has one service, and the gateway.
func badRig(t *testing.T, name string) *rig {
	return newRig(t, func(r *rig, c *Config) {
		c.Limits.Handshake = 300 * time.Millisecond
		c.Gateway = []string{r.addr(c, "gateway")}
		if name == "gateway" {
			return
		}
		s := Service{Name: name, TLS12: name == "old", Upstream: Upstream{Timeout: 300 * time.Millisecond}}
		if bad := badUpstreams[name]; bad != nil {
			s.Upstream.Address = bad(t)
		} else {
			s.Upstream.Address = upstream(t, echo)
		}
		switch name {
		case "mute", "rude":
			s.Upstream.TLS = r.tlsConfig()
		case "pgmute":
			s.Upstream.TLS = r.tlsConfig()
			s.Protocol = ProtocolPostgres
		case "pg":
			s.Protocol = ProtocolPostgres
		}
		if addr := r.addr(c, name); name == "plain" {
			s.ListenPlain = []string{addr}
		} else {
			s.Listen = []string{addr}
		}
		c.Services = []Service{s}
	})
}

// fullBacklog listens with a full queue: the kernel answers no further SYN.
func fullBacklog(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*unix.SockaddrInet4).Port)).String()
	for {
		c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			return addr
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
}

// TestRefusals: each bad client ends in exactly one Refused with its reason, and leaves nothing.
func TestRefusals(t *testing.T) {
	for _, test := range refusals {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			r := badRig(t, test.addr)
			c, err := net.Dial("tcp", r.addrs[test.addr])
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			test.client(t, r, c)
			c.Close()
			var refused []Refused
			var relayed []Relayed
			eventually(t, "the connection is gone", func() bool {
				refused, relayed, _ = r.events()
				return len(refused)+len(relayed) > 0 && r.proxy.live.len() == 0
			})
			if len(refused) != 1 || len(relayed) != 0 {
				t.Fatalf("refused %+v, relayed %+v", refused, relayed)
			}
			if got := refused[0]; got.Reason != test.want {
				t.Errorf("reason %s (%v), want %s", got.Reason, got.Err, test.want)
			}
			if got := refused[0].Source; got.String() != c.LocalAddr().String() {
				t.Errorf("source %s, want %s", got, c.LocalAddr())
			}
			if got := refused[0].Service; got != test.addr && test.addr != "gateway" {
				t.Errorf("service %q, want %q", got, test.addr)
			}
		})
	}
}

// TestRefusalAlerts: a TLS 1.3 client learns why.
func TestRefusalAlerts(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*testing.T, *rig, *tls.Config)
		want   tls.AlertError
	}{
		{"unknown key", strangerKey, alertCertificateUnknown},
		{"ended", endedKey, alertCertificateRevoked},
		{"none", func(_ *testing.T, _ *rig, c *tls.Config) { c.Certificates = nil }, alertCertificateRequired},
		{"denied", func(_ *testing.T, r *rig, _ *tls.Config) { r.denyAll() }, alertAccessDenied},
		{"unknown service", func(_ *testing.T, r *rig, c *tls.Config) {
			r.addrs["db"], c.NextProtos, c.ServerName = r.addrs["gateway"], []string{alpnCurfew}, "nope"
		}, 112},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := badRig(t, "db")
			config := r.tlsConfig(r.client)
			test.change(t, r, config)
			conn, err := tls.Dial("tcp", r.addrs["db"], config)
			if err == nil {
				defer conn.Close()
				// What a client sends at once must not make a reset overtake the alert.
				_, _ = conn.Write([]byte("PING\r\n"))
				_, err = conn.Read(make([]byte, 1))
			}
			var op *net.OpError
			if !errors.As(err, &op) || op.Op != "remote error" || op.Err.Error() != test.want.Error() {
				t.Fatalf("got %v, want alert %v", err, test.want)
			}
		})
	}
}

// TestUpstreamResets: a relayed connection passes a reset on, and is released for it.
func TestUpstreamResets(t *testing.T) {
	noLeaks(t)
	w := ways[0]
	r := w.rig(t, func(c halfCloser) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	c := w.open(r)
	_, _ = c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client sees %v", err)
	}
	r.wantRelease(1, session.ReasonUpstreamClosed)
}

// TestStrays: the limits on unauthenticated connections hold, and are given back.
func TestStrays(t *testing.T) {
	noLeaks(t)
	r := newRig(t, func(r *rig, c *Config) {
		c.Limits = Limits{UnauthenticatedPerSource: 3}
		c.Services = []Service{{Name: "db", Listen: []string{r.addr(c, "db")}, Upstream: Upstream{Address: upstream(t, echo)}}}
	})
	var idle []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", r.addrs["db"])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	eventually(t, "three strays", func() bool { return r.proxy.live.len() == 3 })
	c, err := net.Dial("tcp", r.addrs["db"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "a refusal", func() bool { refused, _, _ := r.events(); return len(refused) == 1 })
	if refused, _, _ := r.events(); refused[0].Reason != session.ReasonTooMany {
		t.Errorf("refused for %s", refused[0].Reason)
	}
	for _, c := range idle {
		c.Close()
	}
	eventually(t, "no strays", func() bool { return r.proxy.live.len() == 0 })
	// An authenticated connection is no stray: more of them than the limit fit.
	for range 5 {
		c := r.dial("db")
		roundTrip(t, c)
	}
}

func roundTrip(t testing.TB, c net.Conn) {
	t.Helper()
	msg := []byte("ping")
	if _, err := c.Write(msg); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, msg); err != nil || string(msg) != "ping" {
		t.Fatalf("%q, %v", msg, err)
	}
}

// TestMPTCP: a client that speaks MPTCP is served over plain TCP, whose socket the gate sees.
func TestMPTCP(t *testing.T) {
	r := newRig(t, func(r *rig, c *Config) {
		c.Services = []Service{{Name: "db", Listen: []string{r.addr(c, "db")}, Upstream: Upstream{Address: upstream(t, echo)}}}
	})
	var d net.Dialer
	d.SetMultipathTCP(true)
	tcp, err := d.Dial("tcp", r.addrs["db"])
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if err := requireTCP(tcp.(*net.TCPConn)); !errors.Is(err, errNotTCP) {
		t.Fatalf("the test's own socket: %v", err)
	}
	if is, err := tcp.(*net.TCPConn).MultipathTCP(); is || err != nil {
		t.Errorf("no fallback: %v, %v", is, err)
	}
	roundTrip(t, tls.Client(tcp, r.tlsConfig(r.client)))
}

// TestMPTCPListener: a handed-in listener that speaks MPTCP is refused.
func TestMPTCPListener(t *testing.T) {
	noLeaks(t)
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := newFakes()
	_, err = New(Config{
		Sessions: f, Policy: f, Gate: f, Observer: f, Clock: f,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil },
		Inherited:   []*net.TCPListener{l.(*net.TCPListener)},
		Services:    []Service{{Name: "db", Listen: []string{l.Addr().String()}, Upstream: Upstream{Address: "127.0.0.1:1"}}},
	})
	if !errors.Is(err, errNotTCP) {
		t.Fatalf("New: %v", err)
	}
}
