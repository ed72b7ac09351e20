// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"golang.org/x/sync/errgroup"
)

// halfCloser is what both ends of a test speak.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// tlsHalfCloser passes the half-close on to TCP, as a client's own relay does.
type tlsHalfCloser struct{ *tls.Conn }

func (c tlsHalfCloser) CloseWrite() error {
	if err := c.Conn.CloseWrite(); err != nil {
		return err
	}
	return c.NetConn().(*net.TCPConn).CloseWrite()
}

// way is one combination of client leg and upstream leg.
type way struct {
	name     string
	min, max uint16 // TLS versions of the client; 0: plain
	upstream bool   // TLS to the upstream
	upMax    uint16
}

var ways = []way{
	{name: "tls13-plain", min: tls.VersionTLS13, max: tls.VersionTLS13},
	{name: "tls12-plain", min: tls.VersionTLS12, max: tls.VersionTLS12},
	{name: "plain-plain"},
	{name: "tls13-tls13", min: tls.VersionTLS13, max: tls.VersionTLS13, upstream: true, upMax: tls.VersionTLS13},
	{name: "plain-tls13", upstream: true, upMax: tls.VersionTLS13},
	{name: "plain-tls12", upstream: true, upMax: tls.VersionTLS12},
	{name: "tls12-tls13", min: tls.VersionTLS12, max: tls.VersionTLS12, upstream: true, upMax: tls.VersionTLS13},
}

// rig starts a proxy for w in front of handle.
func (w way) rig(t testing.TB, handle func(halfCloser)) *rig {
	return newRig(t, func(r *rig, c *Config) {
		serve := func(tcp *net.TCPConn) { handle(tcp) }
		var up Upstream
		if w.upstream {
			cert := newCert(t, "upstream.test")
			config := &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: w.upMax, ClientAuth: tls.RequireAnyClientCert}
			serve = func(tcp *net.TCPConn) {
				conn := tls.Server(tcp, config)
				if err := conn.Handshake(); err != nil {
					t.Errorf("upstream handshake: %v", err)
					return
				}
				handle(tlsHalfCloser{conn})
			}
			up.TLS = r.tlsConfig(r.client)
		}
		up.Address = upstream(t, serve)
		s := Service{Name: "db", TLS12: true, Upstream: up}
		if w.max == 0 {
			s.ListenPlain = []string{r.addr(c, "db")}
			r.byAddr[netip.MustParseAddr("127.0.0.1")] = r.sess
		} else {
			s.Listen = []string{r.addr(c, "db")}
		}
		c.Services = append(c.Services, s)
	})
}

// open connects a client to w's rig.
func (w way) open(r *rig) halfCloser {
	r.t.Helper()
	tcp, err := net.Dial("tcp", r.addrs["db"])
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { tcp.Close() })
	_ = tcp.SetDeadline(time.Now().Add(2 * patience))
	if w.max == 0 {
		return tcp.(*net.TCPConn)
	}
	config := r.tlsConfig(r.client)
	config.MinVersion, config.MaxVersion = w.min, w.max
	conn := tls.Client(tcp, config)
	if err := conn.Handshake(); err != nil {
		r.t.Fatal(err)
	}
	return tlsHalfCloser{conn}
}

func eachWay(t *testing.T, test func(*testing.T, way)) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			noLeaks(t)
			test(t, w)
		})
	}
}

// sendRandom writes n bytes of a seeded stream in random pieces and returns their hash.
func sendRandom(w io.Writer, n int, seed uint64) ([]byte, error) {
	rng := rand.New(rand.NewPCG(seed, 1))
	hash := sha256.New()
	buf := make([]byte, 200_000)
	for i := range buf {
		buf[i] = byte(rng.Uint32())
	}
	for n > 0 {
		size := 1 + rng.IntN(len(buf))
		if rng.IntN(3) == 0 {
			size = 1 + rng.IntN(100)
		}
		piece := buf[:min(n, size)]
		hash.Write(piece)
		if _, err := w.Write(piece); err != nil {
			return nil, err
		}
		n -= len(piece)
	}
	return hash.Sum(nil), nil
}

// receiveAll reads to the end and returns the hash of what came and its length.
func receiveAll(r io.Reader) ([]byte, int64, error) {
	hash := sha256.New()
	n, err := io.Copy(hash, r)
	return hash.Sum(nil), n, err
}

// TestTransfer sends in both directions at once, in random pieces, and half-closes each way.
func TestTransfer(t *testing.T) {
	for _, most := range []int{8, 64, 16384, 16385, 1 << 20, 64 << 20} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			eachWay(t, func(t *testing.T, w way) {
				size := most
				if w.max == tls.VersionTLS12 || w.upMax == tls.VersionTLS12 {
					size = min(most, 4<<20) // crypto/tls needs no proof of ours
				}
				type result struct {
					sent, got []byte
					n         int64
					err       error
				}
				exchange := func(c halfCloser, seed uint64) (res result) {
					var g errgroup.Group
					g.Go(func() (err error) {
						if res.sent, err = sendRandom(c, size, seed); err != nil {
							return fmt.Errorf("send: %w", err)
						}
						return c.CloseWrite()
					})
					var rerr error
					res.got, res.n, rerr = receiveAll(c)
					if res.err = g.Wait(); res.err == nil {
						res.err = rerr
					}
					return res
				}
				served := make(chan result, 1)
				r := w.rig(t, func(c halfCloser) { served <- exchange(c, 2) })
				mine := exchange(w.open(r), 1)
				theirs := <-served
				if mine.err != nil || theirs.err != nil {
					t.Fatalf("client %v, upstream %v", mine.err, theirs.err)
				}
				if mine.n != int64(size) || theirs.n != int64(size) {
					t.Fatalf("client got %d, upstream %d, want %d", mine.n, theirs.n, size)
				}
				if !bytes.Equal(mine.sent, theirs.got) || !bytes.Equal(theirs.sent, mine.got) {
					t.Fatal("the bytes differ")
				}
				_, _, rel := r.events()
				eventually(t, "release", func() bool { _, _, rel = r.events(); return len(rel) == 1 })
				a := &rel[0].conn.Activity
				if up, down := a.BytesFromClient.Load(), a.BytesFromUpstream.Load(); up != uint64(size) || down != uint64(size) {
					t.Errorf("accounted %d up, %d down, want %d", up, down, size)
				}
				if reason := rel[0].reason; reason != session.ReasonClientClosed && reason != session.ReasonUpstreamClosed {
					t.Errorf("released for %s: %v", reason, rel[0].err)
				}
			})
		})
	}
}

// TestHalfCloseByClient: the upstream answers only after the client has ended.
func TestHalfCloseByClient(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		r := w.rig(t, func(c halfCloser) {
			got, _ := io.ReadAll(c)
			fmt.Fprintf(c, "%d bytes", len(got))
			_ = c.CloseWrite()
		})
		c := w.open(r)
		fmt.Fprint(c, "hello")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "5 bytes" {
			t.Fatalf("%q, %v", got, err)
		}
		r.wantRelease(1, session.ReasonClientClosed)
	})
}

// TestHalfCloseByUpstream: the client goes on sending after the upstream has ended.
func TestHalfCloseByUpstream(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		got := make(chan string, 1)
		r := w.rig(t, func(c halfCloser) {
			fmt.Fprint(c, "bye")
			_ = c.CloseWrite()
			b, _ := io.ReadAll(c)
			got <- string(b)
		})
		c := w.open(r)
		if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
			t.Fatalf("%q, %v", b, err)
		}
		fmt.Fprint(c, "last words")
		_ = c.CloseWrite()
		if s := <-got; s != "last words" {
			t.Fatalf("%q", s)
		}
		r.wantRelease(1, session.ReasonUpstreamClosed)
	})
}
