// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeDNS answers from maps, which may change; or, when it is stuck, not at all.
type fakeDNS struct {
	mu    sync.Mutex
	a     map[string][]netip.Addr
	srv   map[string][]*net.SRV
	stuck string // a name that is not answered for
	asked int
}

func (f *fakeDNS) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.stuck == host {
		f.mu.Unlock()
		<-ctx.Done()
		f.mu.Lock()
		return nil, ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(f.a[host]) == 0 {
		return nil, &net.DNSError{Name: host, IsNotFound: true}
	}
	return f.a[host], nil
}

func (f *fakeDNS) LookupSRV(_ context.Context, _, _, name string) (string, []*net.SRV, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.srv[name]) == 0 {
		return "", nil, &net.DNSError{Name: name, IsNotFound: true}
	}
	return name, f.srv[name], nil
}

func (f *fakeDNS) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeDNS) lookups() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func newFakeDNS() *fakeDNS {
	return &fakeDNS{a: map[string][]netip.Addr{}, srv: map[string][]*net.SRV{}}
}

// Names are looked up anew in every round: the nodes of a cluster come up at addresses that nobody knew.
func TestSeedsByName(t *testing.T) {
	for _, seed := range []string{"nodes.example:7946", "srv:_curfew._udp.example"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, lan)
			defer w.stop()
			dns := newFakeDNS()
			byName := func(c *Config) { c.Seeds, c.Resolver = []string{seed}, dns }
			w.start(1, byName)
			w.start(2, byName)
			time.Sleep(10 * time.Second)
			if got := w.nodes["node1"].alive(); len(got) != 1 {
				t.Fatalf("found by a name that does not exist: %v", got)
			}
			dns.set(func() {
				dns.a["nodes.example"] = []netip.Addr{addrOf(1).Addr(), addrOf(2).Addr()}
				dns.a["two.example"] = []netip.Addr{addrOf(2).Addr()}
				dns.srv["_curfew._udp.example"] = []*net.SRV{{Target: "gone.example.", Port: 1}, {Target: "two.example.", Port: 7946}}
			})
			w.eventually("found by "+seed, 3*time.Second, w.whole(2))
			w.start(3, byName)
			w.eventually("found by the third", 3*time.Second, w.whole(3))
			asked := dns.lookups()
			time.Sleep(time.Minute)
			if got := dns.lookups() - asked; got > 3*2*20 {
				t.Errorf("%d lookups in a minute with nobody missing", got)
			}
		})
	}
}

// Two halves that never knew each other meet when the name stands for both.
func TestSeedsJoinHalves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		dns := newFakeDNS()
		byName := func(c *Config) { c.Seeds, c.Resolver = []string{"nodes.example:7946"}, dns }
		w.net.Part("node3", "node4")
		dns.a["nodes.example"] = []netip.Addr{addrOf(1).Addr(), addrOf(2).Addr(), addrOf(3).Addr(), addrOf(4).Addr()}
		for i := range 4 {
			w.start(i+1, byName)
		}
		w.eventually("two halves", 10*time.Second, w.whole(2))
		time.Sleep(time.Minute)
		w.net.Part()
		t.Logf("whole after %v", w.eventually("whole", 5*time.Second, w.whole(4)))
	})
}

// A name service that does not answer holds nobody up who is known.
func TestStuckNameService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		dns := newFakeDNS()
		dns.stuck = "stuck.example"
		dns.a["one.example"] = []netip.Addr{addrOf(1).Addr()}
		w.start(1)
		w.start(2, func(c *Config) { c.Seeds, c.Resolver = []string{"stuck.example:7946", "one.example:7946"}, dns })
		w.eventually("two members", 10*time.Second, w.whole(2))
		w.net.Part("node2")
		time.Sleep(5 * time.Minute)
		w.net.Part()
		w.eventually("healing", 1500*time.Millisecond, w.whole(2))
	})
}

// A seed that members answer at, which is no member's own address, is not joined for ever.
func TestSeedBehindBalancer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		const balancer = "10.99.0.1:7946"
		w.start(1)
		w.nodes["node1"].stop()
		delete(w.nodes, "node1")
		carrier, err := w.net.Node("node1", balancer) // is reached there, and advertises another address
		if err != nil {
			t.Fatal(err)
		}
		w.startOn(1, carrier)
		w.start(2, func(c *Config) { c.Seeds = []string{balancer} })
		w.eventually("two members", 10*time.Second, w.whole(2))
		before := carrier.Stats().Received.Streams
		time.Sleep(5 * time.Minute)
		if got := carrier.Stats().Received.Streams - before; got > 100 { // 300 if it were joined in every round
			t.Errorf("%d streams in five minutes", got)
		}
	})
}

func TestParseSeed(t *testing.T) {
	for text, want := range map[string]seed{
		"10.0.0.1:1":             {"10.0.0.1", 1},
		"[fd00::1]:65535":        {"fd00::1", 65535},
		"a.example:7946":         {"a.example", 7946},
		"srv:_curfew._udp.a.b":   {"_curfew._udp.a.b", 0},
		"srv:_curfew._udp.a.b.":  {"_curfew._udp.a.b.", 0},
		"srv:_curfew._udp.local": {"_curfew._udp.local", 0},
	} {
		if got, err := parseSeed(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "a", ":1", "a:", "a:0", "a:65536", "a:-1", "a:x", "fd00::1", "srv:", "srv:a", "srv:_a._b", "srv:a._b.c", "srv:_a.b.c", "srv:..c"} {
		if got, err := parseSeed(text); err == nil {
			t.Errorf("%q: taken for %+v", text, got)
		}
	}
}

func TestResolve(t *testing.T) {
	dns := newFakeDNS()
	dns.a["both.example"] = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("::ffff:10.0.0.2")}
	dns.srv["_c._udp.x"] = []*net.SRV{{Target: "gone.example.", Port: 1}, {Target: "both.example.", Port: 2}, {Target: "10.0.0.9", Port: 3}}
	for text, want := range map[string]string{
		"both.example:7":      "10.0.0.1:7 [fd00::1]:7 10.0.0.2:7",
		"gone.example:7":      "",
		"[::ffff:10.0.0.3]:7": "10.0.0.3:7",
		"srv:_c._udp.x":       "10.0.0.1:2 [fd00::1]:2 10.0.0.2:2 10.0.0.9:3",
		"srv:_gone._udp.x":    "",
	} {
		s, err := parseSeed(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.resolve(t.Context(), dns)
		if strings.Join(got, " ") != want || want == "" && err == nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func FuzzSeed(f *testing.F) {
	for _, s := range []string{"10.0.0.1:1", "[::1]:2", "srv:_a._b.c", "name:3", ":", "srv:", "[fe80::1%a]:1"} {
		f.Add(s)
	}
	dns := newFakeDNS()
	dns.a["name"] = []netip.Addr{addrOf(1).Addr()}
	dns.srv["_a._b.c"] = []*net.SRV{{Target: "name.", Port: 1}}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSeed(text)
		if err != nil {
			return
		}
		addrs, err := s.resolve(t.Context(), dns)
		for _, a := range addrs {
			if _, parseErr := netip.ParseAddrPort(a); parseErr != nil || err != nil {
				t.Errorf("%q -> %v, %v", text, addrs, err)
			}
		}
		if slices.Contains(addrs, "") {
			t.Errorf("%q -> %q", text, addrs)
		}
	})
}
