// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bpf

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/curfew-proxy/curfew/agent/session"
)

func newDestroyer(t testing.TB) *Destroyer {
	t.Helper()
	d, err := NewDestroyer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func listenTCP(t testing.TB, network, addr string) *net.TCPListener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// loopback makes a connection to l and returns both ends, and the accepted one's name.
func loopback(t testing.TB, l *net.TCPListener) (near, far *net.TCPConn, s session.Socket) {
	t.Helper()
	d := net.Dialer{}
	d.SetMultipathTCP(false)
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if at.Addr().IsUnspecified() {
		at = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port())
	}
	c, err := d.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	if near, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); near.Close() })
	netns, err := ownNetnsCookie()
	if err != nil {
		t.Fatal(err)
	}
	err = control(near, func(fd int) (err error) {
		s, err = identify(fd, netns)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return near, c.(*net.TCPConn), s
}

func TestDestroy(t *testing.T) {
	for network, addr := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "tcp": "[::]:0"} {
		t.Run(network, func(t *testing.T) {
			d, l := newDestroyer(t), listenTCP(t, network, addr)
			_, far, s := loopback(t, l)
			_, other, _ := loopback(t, l)
			stale := s
			stale.Cookie++
			out := make([]Outcome, 3)
			if err := d.Destroy([]session.Socket{stale, s, s}, out); err != nil {
				t.Fatal(err)
			}
			if out[0] != Gone || out[1] != Destroyed || out[2] != Gone {
				t.Fatalf("outcomes %v", out)
			}
			if !reset(t, pair{far: far}) {
				t.Error("the far end was not reset")
			}
			if _, err := other.Write([]byte{1}); err != nil {
				t.Errorf("a stranger's connection: %v", err)
			}
			loopback(t, l) // the listener lives
		})
	}
}

// Keeps out: SOCK_DESTROY of a tuple that is gone falls back to the listener and destroys it.
func TestDestroyOfStaleSocketsSparesListener(t *testing.T) {
	const n = 1000
	d, l := newDestroyer(t), listenTCP(t, "tcp", "[::]:0")
	socks := make([]session.Socket, n)
	for i := range socks {
		near, far, s := loopback(t, l)
		socks[i] = s
		if err := near.SetLinger(0); err != nil { // no TIME_WAIT remnant: truly gone
			t.Fatal(err)
		}
		near.Close()
		far.Close()
	}
	out := make([]Outcome, n)
	if err := d.Destroy(socks, out); err != nil {
		t.Fatal(err)
	}
	for i, o := range out {
		if o != Gone {
			t.Fatalf("socket %d: %v", i, o)
		}
	}
	loopback(t, l)
}

func TestDestroyRefusesSocketWithoutCookie(t *testing.T) {
	d, l := newDestroyer(t), listenTCP(t, "tcp4", "127.0.0.1:0")
	_, _, s := loopback(t, l)
	s.Cookie = 0
	out := make([]Outcome, 1)
	if err := d.Destroy([]session.Socket{s}, out); err == nil || out[0] != Failed {
		t.Fatalf("outcome %v, error %v", out[0], err)
	}
	loopback(t, l)
}

func TestCheckKnowsTheCgroup(t *testing.T) {
	r, d := newRig(t), newDestroyer(t)
	id, err := CgroupID(r.cgroup)
	if err != nil {
		t.Fatal(err)
	}
	r.open(1, 1<<40)
	for _, network := range []string{"tcp4", "tcp6", "tcp"} {
		p := r.connect(network)
		r.tag(&p, 1, 0)
		_, _, stranger := loopback(t, listenTCP(t, "tcp4", "127.0.0.1:0"))
		gone := p.sock
		gone.Cookie++
		out := make([]Outcome, 3)
		if err := d.Check(id, []session.Socket{p.sock, stranger, gone}, out); err != nil {
			t.Fatal(err)
		}
		if out[0] != Untouched || out[1] != Refused || out[2] != Gone {
			t.Errorf("%s: outcomes %v", network, out)
		}
	}
}

func FuzzNextReply(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{20, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff})
	sock := make([]byte, nlHeaderLen+diagMsgLen+12)
	sock[0], sock[4], sock[nlHeaderLen+diagMsgLen], sock[nlHeaderLen+diagMsgLen+2] = byte(len(sock)), sockDiagByFamily, 12, diagCgroupID
	f.Add(sock)
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			r, rest, err := nextReply(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) || r.isSock && r.errno != 0 {
				t.Fatalf("reply %+v leaves %d of %d bytes", r, len(rest), len(b))
			}
			b = rest
		}
	})
}
