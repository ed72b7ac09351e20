// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// Memberlist alone never heals what lasted longer than its patience.
func TestPartitionHeals(t *testing.T) {
	var worst time.Duration
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			cfg := lan
			cfg.Seed = seed
			w := newWorld(t, cfg)
			defer w.stop()
			w.startAll(5)
			w.eventually("five members", 10*time.Second, w.whole(5))
			for _, side := range [][]string{{"node1"}, {"node4"}, {"node2", "node5"}} {
				w.net.Part(side...)
				time.Sleep(5*time.Minute + time.Duration(seed)*170*time.Millisecond)
				for _, name := range side {
					if got := len(w.nodes[name].alive()); got != len(side) {
						t.Fatalf("parted, %s sees %d members", name, got)
					}
				}
				w.net.Part()
				worst = max(worst, w.eventually("healing", 1500*time.Millisecond, w.whole(5)))
			}
		})
	}
	t.Logf("15 partitions of five minutes healed, the slowest within %v", worst)
}

// Also when nothing is in memory but what was written down, and the seeds are gone.
func TestRememberedAreFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		w.startAll(4)
		w.eventually("four members", 10*time.Second, w.whole(4))
		peers := w.crash("node4")
		if len(peers) != 3 {
			t.Fatalf("remembered %v", peers)
		}
		w.crash("node1") // the only seed
		w.start(4, func(c *Config) {
			c.Seeds, c.Remembered = nil, append(peers, mesh.Peer{Name: "node4", Addr: "itself:1"})
		})
		if s := w.nodes["node4"].state("node2"); s != Dead {
			t.Errorf("a member of earlier times is %q at the start", s)
		}
		w.eventually("found again", 10*time.Second, w.whole(3))
		if w.nodes["node4"].counted(EventRejoined) == 0 {
			t.Error("nothing was counted")
		}
	})
}

// moved starts node 2 again at another address, with what it remembers.
func (w *world) moved(addr string, peers []mesh.Peer) {
	w.start(2, func(c *Config) { c.Advertise, c.Remembered, c.Seeds = netip.MustParseAddrPort(addr), peers, nil })
}

func TestRestartAtAnotherAddress(t *testing.T) {
	for what, pause := range map[string]time.Duration{"after its death": time.Minute, "before its death was noticed": 100 * time.Millisecond} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, lan)
				defer w.stop()
				w.startAll(5)
				w.eventually("five members", 10*time.Second, w.whole(5))
				peers := w.crash("node2")
				time.Sleep(pause)
				const addr = "[fd00::9]:7946"
				w.moved(addr, peers)
				w.eventually("packets find it", 5*time.Second, func() bool {
					return w.nodes["node3"].Send("node2", []byte("welcome")) == nil && len(w.nodes["node2"].got()) > 0
				})
				took := w.eventually("memberlist has the new address at all", time.Minute, func() bool {
					for name, n := range w.nodes {
						for _, m := range n.list.Members() {
							if m.Name == "node2" && addrOfNode(m) == addr && (name == "node2" || n.member("node2").Addr == addr && n.state("node2") == Alive) {
								goto next
							}
						}
						return false
					next:
					}
					return true
				})
				t.Logf("at the new address after %v", took)
			})
		})
	}
}

// A restart at the same address: what the earlier self told of itself does not last.
func TestRestartAndMeta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		meta := func(s *string) func(*Config) { return func(c *Config) { c.Meta = func() []byte { return []byte(*s) } } }
		w.start(1)
		first, second := "first", "second"
		w.start(2, meta(&first))
		sees := func(want string) func() bool {
			return func() bool { return string(w.nodes["node1"].member("node2").Meta) == want }
		}
		w.eventually("metadata", 10*time.Second, sees("first"))
		first = "changed"
		if err := w.nodes["node2"].Update(); err != nil {
			t.Fatal(err)
		}
		w.eventually("changed metadata", 10*time.Second, sees("changed"))
		first = strings.Repeat("x", MaxMeta+1)
		if err := w.nodes["node2"].Update(); err == nil {
			t.Error("metadata that does not fit was taken")
		}
		if got := string(w.nodes["node2"].member("node2").Meta); got != "changed" {
			t.Errorf("its own is %q", got)
		}
		w.crash("node2")
		w.start(2, meta(&second))
		w.eventually("metadata of the restarted", 20*time.Second, sees("second"))
	})
}
