// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-proxy/curfew/gossip/memnet"
	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// world is a cluster in a bubble.
type world struct {
	t     *testing.T
	net   *memnet.Network
	nodes map[string]*node
}

// node is a member of it, and its own Handler.
type node struct {
	*Cluster
	world   *world
	carrier *memnet.Node
	stop    func()

	mu       sync.Mutex
	received []string
	seen     map[string]bool // broadcasts
	peers    []mesh.Peer     // remembered
	counts   map[string]int
}

func newWorld(t *testing.T, cfg memnet.Config) *world {
	return &world{t: t, net: memnet.New(cfg), nodes: map[string]*node{}}
}

func addrOf(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 7946)
}

func nameOf(i int) string { return fmt.Sprint("node", i) }

// start starts node i, which knows of seeds and of those that it remembers.
func (w *world) start(i int, change ...func(*Config)) *node {
	w.t.Helper()
	n := &node{world: w, seen: map[string]bool{}, counts: map[string]int{}}
	if old := w.nodes[nameOf(i)]; old != nil {
		n.peers = old.peers
	}
	var err error
	if n.carrier, err = w.net.Node(nameOf(i), addrOf(i).String()); err != nil {
		w.t.Fatal(err)
	}
	cfg := Config{Name: nameOf(i), Advertise: addrOf(i), Carrier: n.carrier, Handler: n, Log: slog.New(slog.DiscardHandler),
		Remembered: n.peers, Remember: func(p []mesh.Peer) { n.mu.Lock(); n.peers = p; n.mu.Unlock() },
		Count: func(e string) { n.mu.Lock(); n.counts[e]++; n.mu.Unlock() }}
	if i != 1 {
		cfg.Seeds = []string{addrOf(1).String()}
	}
	for _, f := range change {
		f(&cfg)
	}
	if n.Cluster, err = New(cfg); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.Run(ctx) }()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			if err := errors.Join(<-done, n.Close(), n.carrier.Close()); err != nil {
				w.t.Error(err)
			}
		})
	}
	w.nodes[nameOf(i)] = n
	return n
}

func (w *world) startAll(n int) {
	for i := range n {
		w.start(i + 1)
	}
}

func (w *world) stop() {
	for _, n := range w.nodes {
		n.stop()
	}
	time.Sleep(time.Minute) // for memberlist's own timers
}

func (n *node) Receive(from string, data []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.received = append(n.received, from+":"+string(data))
}

func (n *node) Serve(from string, request []byte) ([]byte, error) {
	switch string(request) {
	case "fail":
		return nil, errors.New("no")
	case "hang":
		time.Sleep(10 * time.Second)
	}
	return []byte(from + " asked " + n.cfg.Name + " " + string(request)), nil
}

func (n *node) Gossiped(data []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	news := !n.seen[string(data)]
	n.seen[string(data)] = true
	return news
}

func (n *node) alive() (names []string) {
	for _, m := range n.Members() {
		if m.State == Alive {
			names = append(names, m.Name)
		}
	}
	return names
}

func (n *node) state(name string) State {
	for _, m := range n.Members() {
		if m.Name == name {
			return m.State
		}
	}
	return ""
}

// eventually waits, in the bubble's time, and returns how long it took.
func (w *world) eventually(what string, within time.Duration, ok func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > within {
			for name, n := range w.nodes {
				w.t.Logf("%s sees %+v", name, n.Members())
			}
			w.t.Fatalf("%s: not within %v", what, within)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

func (w *world) whole(n int) func() bool {
	return func() bool {
		for _, node := range w.nodes {
			if len(node.alive()) != n {
				return false
			}
		}
		return true
	}
}

var lan = memnet.Config{Seed: 1, Latency: 500 * time.Microsecond, Jitter: 500 * time.Microsecond}

func lossy(loss float64) memnet.Config {
	c := lan
	c.Loss, c.Duplicate = loss, 0.05
	return c
}

func TestJoinAndLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		w.startAll(5)
		w.eventually("five members", 10*time.Second, w.whole(5))
		n3 := w.nodes["node3"]
		if err := n3.Leave(5 * time.Second); err != nil {
			t.Fatal(err)
		}
		n3.stop()
		delete(w.nodes, "node3")
		w.nodes["node5"].stop() // without a goodbye
		delete(w.nodes, "node5")
		w.eventually("one has left, one is dead", 30*time.Second, func() bool {
			for _, n := range w.nodes {
				if n.state("node3") != Left || n.state("node5") != Dead {
					return false
				}
			}
			return true
		})
		w.nodes["node1"].Forget("node5")
		if s := w.nodes["node1"].state("node5"); s != "" {
			t.Errorf("a member that was forgotten is %s", s)
		}
	})
}

func TestLossKillsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lossy(0.2))
		defer w.stop()
		w.startAll(5)
		w.eventually("five members", time.Minute, w.whole(5))
		for range 600 {
			time.Sleep(time.Second)
			for name, n := range w.nodes {
				for _, m := range n.Members() {
					if m.State == Dead {
						t.Fatalf("%s holds %s for dead, with 20 %% loss", name, m.Name)
					}
				}
			}
		}
	})
}

// Memberlist alone never heals what lasted longer than its patience.
func TestPartitionHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		w.startAll(5)
		w.eventually("five members", 10*time.Second, w.whole(5))
		for _, length := range []time.Duration{10 * time.Second, 5 * time.Minute, time.Hour} {
			w.net.Isolate("node4", true)
			time.Sleep(length)
			w.net.Isolate("node4", false)
			t.Logf("after %v: healed in %v", length, w.eventually("healing", 3*time.Second, w.whole(5)))
		}
	})
}

func TestRestartAtAnotherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		w.startAll(3)
		w.eventually("three members", 10*time.Second, w.whole(3))
		w.nodes["node2"].stop()
		time.Sleep(time.Minute)
		moved := netip.MustParseAddrPort("10.9.9.9:7946")
		peers := w.nodes["node2"].peers
		delete(w.nodes, "node2")
		carrier, err := w.net.Node("node2", moved.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = carrier.Close() // the name is free again; start takes it
		w.start(2, func(c *Config) { c.Advertise, c.Remembered, c.Seeds = moved, peers, nil })
		w.eventually("the node is back", 10*time.Second, func() bool {
			for _, m := range w.nodes["node3"].Members() {
				if m.Name == "node2" && m.State == Alive && m.Addr == moved.String() {
					return true
				}
			}
			return false
		})
	})
}

// A member that gossips under a name that no certificate is behind is never one.
func TestPhantom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		w.startAll(2)
		w.eventually("two members", 10*time.Second, w.whole(2))
		phantom := w.start(3, func(c *Config) { c.Name = "phantom" }) // on the wire it is node3
		defer phantom.stop()
		time.Sleep(time.Minute)
		delete(w.nodes, "node3")
		for _, n := range w.nodes {
			if n.state("phantom") != "" || n.counts[EventPhantom] == 0 {
				t.Errorf("the phantom is %q, counted %d times", n.state("phantom"), n.counts[EventPhantom])
			}
		}
	})
}

func TestBroadcastReachesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lossy(0.2))
		defer w.stop()
		w.startAll(50)
		w.eventually("fifty members", 2*time.Minute, w.whole(50))
		misses := 0
		for i := range 40 {
			text := fmt.Sprint("message ", i)
			if err := w.nodes[nameOf(i+1)].Broadcast(text, []byte(text)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
			for name, n := range w.nodes {
				n.mu.Lock()
				if !n.seen[text] && name != nameOf(i+1) {
					misses++
				}
				n.mu.Unlock()
			}
		}
		t.Logf("%d of %d missed after 3 s with 20 %% loss", misses, 40*49)
		if misses > 40*49/100 { // anti-entropy is for the rest
			t.Errorf("more than one in a hundred missed")
		}
		if err := w.nodes["node1"].Broadcast("x", make([]byte, MaxBroadcast+1)); err == nil {
			t.Error("a broadcast that fits into no packet was taken")
		}
	})
}

func TestSendAndRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		w.startAll(2)
		w.eventually("two members", 10*time.Second, w.whole(2))
		a, b := w.nodes["node1"], w.nodes["node2"]
		if err := a.Send("node2", []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := a.Send("nobody", []byte("hello")); !errors.Is(err, ErrNoMember) {
			t.Errorf("a packet to nobody: %v", err)
		}
		reply, err := a.Request(t.Context(), "node2", []byte("why"))
		if err != nil || string(reply) != "node1 asked node2 why" {
			t.Errorf("%q, %v", reply, err)
		}
		var refused *RefusedError
		if _, err := a.Request(t.Context(), "node2", []byte("fail")); !errors.As(err, &refused) || refused.Text != "no" {
			t.Errorf("a request that fails: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Request(ctx, "node2", []byte("hang")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a request that hangs: %v", err)
		}
		if !slices.Contains(b.received, "node1:hello") {
			t.Errorf("received %v", b.received)
		}
		time.Sleep(20 * time.Second)
	})
}

// fakeDNS answers from maps, which may change.
type fakeDNS struct {
	mu   sync.Mutex
	a    map[string][]netip.Addr
	srv  map[string][]*net.SRV
	asks int
}

func (f *fakeDNS) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asks++
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

// Names are looked up anew in every round: the nodes of a cluster come up at addresses that nobody knew.
func TestSeedsByName(t *testing.T) {
	for _, seed := range []string{"nodes.example:7946", "srv:_curfew._udp.example"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, lan)
			defer w.stop()
			dns := &fakeDNS{a: map[string][]netip.Addr{}, srv: map[string][]*net.SRV{}}
			byName := func(c *Config) { c.Seeds, c.Resolver = []string{seed}, dns }
			w.start(1, byName)
			w.start(2, byName)
			time.Sleep(10 * time.Second)
			if got := w.nodes["node1"].alive(); len(got) != 1 {
				t.Fatalf("found by a name that does not exist: %v", got)
			}
			dns.mu.Lock()
			dns.a["nodes.example"] = []netip.Addr{addrOf(1).Addr(), addrOf(2).Addr()}
			dns.a["two.example"] = []netip.Addr{addrOf(2).Addr()}
			dns.srv["_curfew._udp.example"] = []*net.SRV{{Target: "gone.example.", Port: 1}, {Target: "two.example.", Port: 7946}}
			dns.mu.Unlock()
			w.eventually("found by "+seed, 5*time.Second, w.whole(2))
		})
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add("")
	f.Add("\x00\x00\x00\x02ab")
	f.Add("\xff\xff\xff\xffab")
	f.Fuzz(func(t *testing.T, in string) {
		if data, err := readFrame(strings.NewReader(in)); err == nil && len(data) > len(in) {
			t.Errorf("%d bytes of %d", len(data), len(in))
		}
	})
}

func FuzzResolve(f *testing.F) {
	for _, s := range []string{"10.0.0.1:1", "[::1]:2", "srv:_a._b.c", "name:3", ":", "srv:"} {
		f.Add(s)
	}
	dns := &fakeDNS{a: map[string][]netip.Addr{"name": {addrOf(1).Addr()}}}
	f.Fuzz(func(t *testing.T, seed string) {
		addrs, err := resolve(t.Context(), dns, seed)
		for _, a := range addrs {
			if _, _, splitErr := net.SplitHostPort(a); splitErr != nil || err != nil {
				t.Errorf("%q -> %v, %v", seed, addrs, err)
			}
		}
	})
}
