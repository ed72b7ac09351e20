// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"context"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
)

func TestKill(t *testing.T) {
	for name, n := range map[string]int{"one": 1, "few": 100, "many": 1500} { // many: several messages, and by list
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			conns := r.connect(n)
			survivor := r.connect(1)[0]
			socks := r.ask(order{Do: "look"}).Sockets
			report := r.ask(order{Do: "kill", Sockets: socks[:n]}).Report
			if len(report.Outcomes) != n || report.Count(bpf.Destroyed) != n || !report.Complete() || report.Duration <= 0 {
				t.Fatalf("report: %d outcomes, %d destroyed, in %v", len(report.Outcomes), report.Count(bpf.Destroyed), report.Duration)
			}
			for _, c := range conns {
				cut(t, c)
			}
			if !echoes(survivor) {
				t.Error("a connection that was not to be killed is cut")
			}
			// They ended just now: asking again is harmless, to the listener too.
			if again := r.ask(order{Do: "kill", Sockets: socks[:n]}).Report; again.Count(bpf.Gone) != n {
				t.Errorf("second kill: %v", again)
			}
			if !echoes(r.connect(1)[0]) {
				t.Error("the listener is gone")
			}
		})
	}
}

// Keeps out: a proxy in a stranger's hands kills connections of other processes.
func TestForgedKillIsRefused(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 300} { // by look-up, and by list
		r := newRig(t)
		strangers := strangerSockets(t, n)
		own := r.connect(1)[0]
		mine := r.ask(order{Do: "look"}).Sockets
		report := r.ask(order{Do: "kill", Sockets: append(mine, strangers.names...)}).Report
		if report.Count(bpf.Refused) != n || report.Outcomes[0] != bpf.Destroyed || report.Complete() {
			t.Fatalf("outcomes %v", report.Outcomes)
		}
		cut(t, own)
		for _, c := range strangers.conns {
			if _, err := c.Write([]byte{1}); err != nil {
				t.Errorf("a stranger's connection: %v", err)
			}
		}
	}
}

type strangers struct {
	conns []*net.TCPConn
	names []session.Socket
}

// strangerSockets makes connections of this process, which is not in the gated cgroup.
func strangerSockets(t *testing.T, n int) (s strangers) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for range n {
		far := dial(t, l.Addr().String(), 1)[0]
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		near := c.(*net.TCPConn)
		raw, err := near.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var cookie uint64
		var inner error
		if err := raw.Control(func(fd uintptr) {
			cookie, inner = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
		}); err != nil || inner != nil {
			t.Fatal(err, inner)
		}
		s.conns = append(s.conns, near, far)
		s.names = append(s.names, session.Socket{Cookie: cookie, Leg: session.ClientLeg, Tuple: session.Tuple{
			Local:  near.LocalAddr().(*net.TCPAddr).AddrPort(),
			Remote: near.RemoteAddr().(*net.TCPAddr).AddrPort(),
		}})
	}
	return s
}

// BenchmarkKillRequest measures the way of a kill from the proxy to the enforcer and, destroyed and
// verified, back: the medians of 50.
func BenchmarkKillRequest(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			r := newRig(b)
			var enforcer, proxy []time.Duration
			for range 50 {
				r.connect(n)
				socks := r.ask(order{Do: "look"}).Sockets
				a := r.ask(order{Do: "kill", Sockets: socks[len(socks)-n:]})
				if a.Report.Count(bpf.Destroyed) != n {
					b.Fatal(a.Report)
				}
				enforcer, proxy = append(enforcer, a.Report.Duration), append(proxy, a.Took)
			}
			slices.Sort(enforcer)
			slices.Sort(proxy)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(enforcer[25].Microseconds()), "enforcer-us")
			b.ReportMetric(float64(proxy[25].Microseconds()), "proxy-us")
			b.ReportMetric(float64(proxy[49].Microseconds()), "proxy-max-us")
		})
	}
}
