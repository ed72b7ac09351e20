// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"golang.org/x/sys/unix"
)

// echoRig has one service "db" that echoes, on its own port and on the gateway.
func echoRig(t testing.TB, change func(*rig, *Config)) *rig {
	return newRig(t, func(r *rig, c *Config) {
		c.Services = []Service{{
			Name: "db", Listen: []string{r.addr(c, "db")},
			Upstream: Upstream{Address: upstream(t, echo)},
		}}
		c.Gateway = []string{r.addr(c, "gateway")}
		if change != nil {
			change(r, c)
		}
	})
}

func TestConnectionFields(t *testing.T) {
	r := echoRig(t, func(_ *rig, c *Config) { c.Services[0].MaxDuration = time.Hour })
	c := r.dial("db")
	roundTrip(t, c)
	_, relayed, _ := r.events()
	if len(relayed) != 1 {
		t.Fatalf("relayed %+v", relayed)
	}
	got := relayed[0].Connection
	if got.ID == 0 || got.Session() != r.sess.ID || got.Service != "db" || got.Source.String() != c.LocalAddr().String() ||
		got.Opened.IsZero() || got.Abort == nil {
		t.Errorf("%+v", got)
	}
	if left := got.Deadline.Sub(r.Boot()); left <= 0 || left > time.Hour {
		t.Errorf("the service's limit is in %v", left)
	}
	if a := &got.Activity; a.BytesFromClient.Load() != 4 || a.BytesFromUpstream.Load() != 4 || a.Pending() {
		t.Errorf("activity: %d up, %d down, pending %v", a.BytesFromClient.Load(), a.BytesFromUpstream.Load(), a.Pending())
	}
}

// TestGateway: server names choose services; everything else is the API's.
func TestGateway(t *testing.T) {
	noLeaks(t)
	api := make(chan *tls.Conn, 1)
	r := echoRig(t, func(_ *rig, c *Config) { c.API = func(conn *tls.Conn) { api <- conn } })
	for _, test := range []struct {
		name string
		alpn []string
		api  bool
	}{
		{"db", nil, false},
		{"DB.Example.com", []string{alpnCurfew}, false},
		{"db.example.com", nil, false},
		{"", nil, true},
		{"example.com", []string{alpnHTTP}, true},
		{"example.com", []string{"h2", alpnHTTP}, true},
	} {
		config := r.tlsConfig(r.client)
		config.ServerName, config.NextProtos = test.name, test.alpn
		conn, err := tls.Dial("tcp", r.addrs["gateway"], config)
		if err != nil {
			t.Fatalf("%+v: %v", test, err)
		}
		if test.api {
			their := <-api
			if err := their.Handshake(); err != nil || len(their.ConnectionState().PeerCertificates) != 1 {
				t.Errorf("%+v: the API sees %v, %d certificates", test, err, len(their.ConnectionState().PeerCertificates))
			}
			go func() { _, _ = io.Copy(their, their); their.Close() }()
		}
		roundTrip(t, conn)
		conn.Close()
	}
}

// TestUpdate: listeners move between services, come and go; live connections stay.
func TestUpdate(t *testing.T) {
	noLeaks(t)
	r := echoRig(t, nil)
	c := r.dial("db")
	roundTrip(t, c)
	hello := upstream(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("hello")) })
	other := Service{Name: "other", Listen: []string{r.addrs["db"]}, Upstream: Upstream{Address: hello}}
	if err := r.proxy.Update([]Service{other}); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r.dial("db")); err != nil || string(b) != "hello" {
		t.Fatalf("the address went to another service: %q, %v", b, err)
	}
	roundTrip(t, c)

	bad := other
	bad.Name, bad.Listen = "bad", []string{"192.0.2.1:1"}
	if err := r.proxy.Update([]Service{other, bad}); err == nil {
		t.Fatal("an address that cannot be had was accepted")
	}
	if b, err := io.ReadAll(r.dial("db")); err != nil || string(b) != "hello" {
		t.Fatalf("a failed update changed something: %q, %v", b, err)
	}

	other.Listen = []string{"127.0.0.1:0", "[::1]:0"}
	if err := r.proxy.Update([]Service{other}); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", r.addrs["db"]); err == nil {
		c.Close()
		t.Fatal("the old address still listens")
	}
	for addr, real := range r.proxy.Addrs() {
		r.addrs[addr] = real.String()
	}
	for _, addr := range other.Listen {
		if b, err := io.ReadAll(r.dial(addr)); err != nil || string(b) != "hello" {
			t.Fatalf("%s: %q, %v", addr, b, err)
		}
	}
	roundTrip(t, c)
	if err := r.proxy.Health(); err != nil {
		t.Error(err)
	}
}

// TestDrain: no new connections, the old ones go on; Run's end resets those that are left.
func TestDrain(t *testing.T) {
	noLeaks(t)
	r := echoRig(t, nil)
	c := r.dial("db")
	roundTrip(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.proxy.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Drain with a live connection: %v", err)
	}
	if err := r.proxy.Health(); err == nil {
		t.Error("a drained proxy claims to serve")
	}
	if _, err := net.Dial("tcp", r.addrs["db"]); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a new connection: %v", err)
	}
	roundTrip(t, c)
	c.Close()
	if err := r.proxy.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wantRelease(1, session.ReasonClientClosed)
}

func TestRunEndsConnections(t *testing.T) {
	noLeaks(t)
	f := newFakes()
	var c *tls.Conn
	t.Run("run", func(t *testing.T) {
		r := echoRig(t, func(r *rig, c *Config) {
			f.byKey = r.byKey
			c.Sessions, c.Gate, c.Observer = f, f, f
		})
		var err error
		if c, err = tls.Dial("tcp", r.addrs["db"], r.tlsConfig(r.client)); err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c)
	})
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client sees %v", err)
	}
	_, _, rel := f.events()
	if len(rel) != 1 || rel[0].reason != session.ReasonDrain {
		t.Errorf("released %+v", rel)
	}
}

// TestAbort: user space can end a connection at any time; both ends see a reset.
func TestAbort(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		seen := make(chan error, 1)
		r := w.rig(t, func(c halfCloser) {
			var err error
			for b := make([]byte, 1); err == nil; _, err = c.Read(b) {
				_, _ = c.Write([]byte("x"))
			}
			seen <- err
		})
		c := w.open(r)
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_, relayed, _ := r.events()
		for range 3 {
			go relayed[0].Connection.Abort()
		}
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client sees %v", err)
		}
		if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the upstream sees %v", err)
		}
		r.wantRelease(1, session.ReasonDestroyed)
	})
}

// TestDestroyed: a socket destroyed by the kernel is reported as that, whichever leg it was.
func TestDestroyed(t *testing.T) {
	for _, leg := range []string{"client", "upstream"} {
		t.Run(leg, func(t *testing.T) {
			eachWay(t, func(t *testing.T, w way) {
				r := w.rig(t, func(c halfCloser) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) })
				c := w.open(r)
				roundTrip(t, c)
				_, relayed, _ := r.events()
				victim := r.proxy.live.snapshot()[0].client
				if leg == "upstream" {
					victim = r.proxy.live.snapshot()[0].upstream
				}
				destroy(t, victim)
				if _, err := c.Read(make([]byte, 1)); err == nil {
					t.Error("the client goes on")
				}
				rel := r.wantRelease(1, session.ReasonDestroyed)
				if !errors.Is(rel.err, syscall.ECONNABORTED) {
					t.Errorf("the error is %v", rel.err)
				}
				if rel.conn != relayed[0].Connection {
					t.Error("released another connection")
				}
			})
		})
	}
}

// destroy has the kernel destroy a socket of ours, by its exact tuple.
func destroy(t *testing.T, c *net.TCPConn) {
	t.Helper()
	local, remote := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr)
	out, err := exec.Command("ss", "-K", "-n", "-H", "-t",
		"src", local.IP.String(), "sport", "=", strconv.Itoa(local.Port),
		"dst", remote.IP.String(), "dport", "=", strconv.Itoa(remote.Port)).CombinedOutput()
	if err != nil || strings.Count(string(out), "\n") != 1 {
		t.Fatalf("ss -K: %v\n%s", err, out)
	}
}

func TestServiceLimitReason(t *testing.T) {
	r := echoRig(t, func(_ *rig, c *Config) { c.Services[0].MaxDuration = time.Millisecond })
	roundTrip(t, r.dial("db"))
	_, relayed, _ := r.events()
	eventually(t, "the limit", func() bool { return r.Boot() >= relayed[0].Connection.Deadline })
	destroy(t, r.proxy.live.snapshot()[0].client)
	r.wantRelease(1, session.ReasonServiceLimit)
}

func TestMaxConnections(t *testing.T) {
	r := echoRig(t, func(_ *rig, c *Config) { c.Services[0].MaxConnections = 1 })
	first := r.dial("db")
	roundTrip(t, first)
	second := r.dial("db")
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Fatal("one too many")
	}
	second.Close()
	refused, _, _ := r.events()
	if len(refused) != 1 || refused[0].Reason != session.ReasonTooMany || refused[0].Session == nil {
		t.Fatalf("%+v", refused)
	}
	first.Close()
	r.wantRelease(1, session.ReasonClientClosed)
	eventually(t, "room again", func() bool { return r.proxy.live.len() == 0 })
	roundTrip(t, r.dial("db"))
}

func TestPlainListener(t *testing.T) {
	r := echoRig(t, func(r *rig, c *Config) {
		c.Services[0].ListenPlain = []string{r.addr(c, "plain")}
		r.byAddr[netip.MustParseAddr("127.0.0.1")] = r.sess
	})
	c, err := net.Dial("tcp", r.addrs["plain"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	roundTrip(t, c)
	if _, relayed, _ := r.events(); len(relayed) != 1 || !relayed[0].Plain || relayed[0].Session.ID != r.sess.ID {
		t.Fatalf("%+v", relayed)
	}
}

// TestOutOfDescriptors: the accept loop outlives EMFILE, says so, and recovers.
func TestOutOfDescriptors(t *testing.T) {
	r := echoRig(t, nil)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	addr := netip.MustParseAddrPort(r.addrs["db"])
	low := unix.Rlimit{Cur: uint64(fd + 1), Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "unhealthy", func() bool { return errors.Is(r.proxy.Health(), syscall.EMFILE) })
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	eventually(t, "healthy again", func() bool { return r.proxy.Health() == nil })
	roundTrip(t, r.dial("db"))
}

func TestConfigFaults(t *testing.T) {
	good := Service{Name: "db", Upstream: Upstream{Address: "127.0.0.1:1"}}
	for name, change := range map[string]func(*Service){
		"name":         func(s *Service) { s.Name = "a.b" },
		"upper case":   func(s *Service) { s.Name = "DB" },
		"protocol":     func(s *Service) { s.Protocol = "gopher" },
		"upstream":     func(s *Service) { s.Upstream.Address = "nowhere" },
		"allow_cancel": func(s *Service) { s.AllowCancel = true },
	} {
		s := good
		change(&s)
		if s.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}
