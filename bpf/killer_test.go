// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bpf

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// acceptTagged accepts o.Bytes connections and tags them for session o.Number.
func (p *proxyState) acceptTagged(o order) ([]session.Socket, error) {
	socks := make([]session.Socket, o.Bytes)
	for i := range socks {
		c, err := p.listeners[len(p.listeners)-1].AcceptTCP()
		if err != nil {
			return nil, err
		}
		if socks[i], err = p.tagger.Tag(c, o.Number, session.ClientLeg, 0); err != nil {
			return nil, err
		}
		p.conns, p.socks = append(p.conns, c), append(p.socks, socks[i])
	}
	return socks, nil
}

// dialMany makes o.Bytes connections to o.Addr.
func (p *proxyState) dialMany(o order) error {
	for range o.Bytes {
		d := net.Dialer{}
		d.SetMultipathTCP(false)
		c, err := d.Dial(o.Network, o.Addr)
		if err != nil {
			return err
		}
		p.conns = append(p.conns, c.(*net.TCPConn))
	}
	return nil
}

// closeDead closes the connections that are no longer established, to get their descriptors back.
func (p *proxyState) closeDead() {
	p.conns = slices.DeleteFunc(p.conns, func(c *net.TCPConn) bool {
		var info *unix.TCPInfo
		err := control(c, func(fd int) (err error) {
			info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			return err
		})
		if err == nil && info.State == unix.BPF_TCP_ESTABLISHED {
			return false
		}
		_ = c.Close() // it is dead
		return true
	})
}

// crowd is many tagged connections of a proxy, whose far ends another process holds: no process
// may have more than 20,000 files here. All of it is in a network namespace of its own.
type crowd struct {
	*rig
	addr   string
	far    *proxyProcess
	killer *Killer
	number uint64 // the crowd's session
	socks  map[uint64]session.Socket
}

func newCrowd(b testing.TB, r *rig, far *proxyProcess) *crowd {
	c := &crowd{rig: r, far: far, socks: map[uint64]session.Socket{}}
	c.addr = c.proxy.do(order{Do: "listen", Network: "tcp4", Addr: "127.0.0.1:0"}).Addr
	d := newDestroyer(b)
	var err error
	if c.killer, err = NewKiller(c.objects, d, c.cgroup); err != nil {
		b.Fatal(err)
	}
	return c
}

// fill brings the crowd up to n connections.
func (c *crowd) fill(n int) {
	c.t.Helper()
	missing := n - len(c.socks)
	if missing == n {
		c.number++
		c.open(c.number, time.Hour)
	}
	c.proxy.do(order{Do: "closedead"})
	c.far.do(order{Do: "closedead"})
	if err := c.proxy.in.Encode(order{Do: "acceptn", Number: c.number, Bytes: missing}); err != nil {
		c.t.Fatal(err)
	}
	c.far.do(order{Do: "dialn", Network: "tcp4", Addr: c.addr, Bytes: missing})
	var a answer
	if err := c.proxy.out.Decode(&a); err != nil || a.Err != "" {
		c.t.Fatal(err, a.Err)
	}
	for _, s := range a.Sockets {
		c.socks[s.Cookie] = s
	}
}

// take removes n sockets from the books, to be killed.
func (c *crowd) take(n int) []session.Socket {
	var out []session.Socket
	for cookie, s := range c.socks {
		if len(out) == n {
			break
		}
		out = append(out, s)
		delete(c.socks, cookie)
	}
	return out
}

// kill times a kill of n, verified.
func (c *crowd) kill(n int) time.Duration {
	c.t.Helper()
	victims := c.take(n)
	if len(c.socks) == 0 { // the whole session
		c.proxy.do(order{Do: "end", Number: c.number})
	}
	start := time.Now()
	outcomes, err := c.killer.Kill(victims)
	took := time.Since(start)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, o := range outcomes {
		if o != Destroyed {
			c.t.Fatalf("outcome %v", o)
		}
	}
	return took
}

// ssKill times the same by ss -K, which verifies nothing.
func (c *crowd) ssKill(n int) time.Duration {
	c.t.Helper()
	victims := c.take(n)
	args := []string{"-K", "-t", "-n", "-H", "src", c.addr}
	if len(c.socks) > 0 {
		var ports []string
		for _, s := range victims {
			ports = append(ports, "dport = :"+strconv.Itoa(int(s.Tuple.Remote.Port())))
		}
		args = append(args, "and", "( "+strings.Join(ports, " or ")+" )")
	} else {
		args = append(args, "and", "dport != :0")
	}
	cmd := exec.Command("ss", args...)
	start := time.Now()
	out, err := cmd.Output()
	took := time.Since(start)
	if err != nil || strings.Count(string(out), "\n") < n {
		c.t.Fatalf("ss -K: %v, %d lines, want %d", err, strings.Count(string(out), "\n"), n)
	}
	return took
}

// BenchmarkKill compares kills of 1, 100 and all of 10,000 connections, looked up first and verified
// afterwards, with ss -K, which does neither, in alternating rounds of one run. Read the ratio.
func BenchmarkKill(b *testing.B) {
	const size = 10_000
	r, ns := newNamespaceRig(b)
	var far *proxyProcess
	if err := inNamespace(ns, func() error { far = startProxy(b, r.objects, r.cgroup); return nil }); err != nil {
		b.Fatal(err)
	}
	for _, k := range []struct{ n, rounds int }{{1, 25}, {100, 15}, {size, 5}} {
		b.Run(fmt.Sprintf("%d", k.n), func(b *testing.B) {
			err := inNamespace(ns, func() error {
				c := newCrowd(b, &rig{t: b, objects: r.objects, cgroup: r.cgroup, proxy: r.proxy}, far)
				var ours, theirs []time.Duration
				for range k.rounds {
					c.fill(size)
					ours = append(ours, c.kill(k.n))
					c.fill(size)
					theirs = append(theirs, c.ssKill(k.n))
				}
				c.proxy.try(order{Do: "end", Number: c.number}) // it may have ended
				if _, err := c.objects.Sweep(); err != nil {
					return err
				}
				report(b, ours, theirs)
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}

// report prints medians; the time of an iteration says nothing, as it includes the setting up.
func report(b *testing.B, ours, theirs []time.Duration) {
	slices.Sort(ours)
	slices.Sort(theirs)
	o, t := ours[len(ours)/2], theirs[len(theirs)/2]
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(o.Microseconds()), "kill-us")
	b.ReportMetric(float64(t.Microseconds()), "ss-us")
	b.ReportMetric(float64(o)/float64(t), "ratio")
}

func TestKillerRefusesStrangers(t *testing.T) {
	for _, n := range []int{1, fewSockets + 1} { // by look-up, and by list
		r, d := newRig(t), newDestroyer(t)
		k, err := NewKiller(r.objects, d, r.cgroup)
		if err != nil {
			t.Fatal(err)
		}
		r.open(1, time.Hour)
		tagged, untagged := r.connect("tcp4"), r.connect("tcp4")
		r.tag(&tagged, 1, 0)
		socks := []session.Socket{tagged.sock, r.proxy.do(order{Do: "name", Conn: untagged.conn}).Socket}
		want := []Outcome{Destroyed, Destroyed} // an untagged socket of the proxy's is its own, too
		l := listenTCP(t, "tcp4", "127.0.0.1:0")
		for range n {
			_, _, s := loopback(t, l)
			socks, want = append(socks, s), append(want, Refused)
		}
		gone := tagged.sock
		gone.Cookie++
		gone.Tuple.Remote = netip.AddrPortFrom(gone.Tuple.Remote.Addr(), 1)
		socks, want = append(socks, gone), append(want, Gone)
		got, err := k.Kill(socks)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("outcomes %v, %v; want %v", got, err, want)
		}
	}
}
