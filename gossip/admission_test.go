// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

// Two members that do not reach each other, and that all others reach, stay members to each other.
func TestOneLinkIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		meta := ""
		for i := range 5 {
			w.start(i+1, func(c *Config) { c.Meta = func() []byte { return []byte(meta) } })
		}
		w.eventually("five members", 10*time.Second, w.whole(5))
		w.net.Cut("node2", "node3", true)
		for range 300 {
			time.Sleep(time.Second)
			w.noneIs(Dead)
		}
		meta = "told by others"
		if err := w.nodes["node3"].Update(); err != nil {
			t.Fatal(err)
		}
		w.eventually("news of it by others", 10*time.Second, func() bool { return string(w.nodes["node2"].member("node3").Meta) == meta })
		if a, b := w.nodes["node2"].state("node3"), w.nodes["node3"].state("node2"); a != Suspect || b != Suspect {
			t.Errorf("to each other they are %s and %s", a, b)
		}
		w.net.Cut("node2", "node3", false)
		w.eventually("all are connected", 10*time.Second, w.whole(5))
	})
}

func TestRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		var removed atomic.Value
		ask := func(c *Config) { c.Removed = func(name string) bool { return removed.Load() == name } }
		for i := range 4 {
			w.start(i+1, ask)
		}
		w.eventually("four members", 10*time.Second, w.whole(4))
		w.crash("node4")
		removed.Store("node4")
		time.Sleep(time.Minute)
		for _, i := range []int{1, 2, 3} {
			n := w.nodes[nameOf(i)]
			if s := n.state("node4"); s != "" {
				t.Errorf("a member that was removed is shown as %s", s)
			}
			for _, p := range n.remembered() {
				if p.Name == "node4" {
					t.Errorf("a member that was removed is remembered: %v", n.remembered())
				}
			}
			n.Forget("node4")
		}
		w.start(4, func(c *Config) { c.Seeds = []string{addrOf(1).String()} })
		time.Sleep(time.Minute)
		for _, i := range []int{1, 2, 3} {
			if n := w.nodes[nameOf(i)]; len(n.alive()) != 3 || n.state("node4") != "" || len(n.list.Members()) != 3 {
				t.Errorf("a member that was removed is back: %+v", n.Members())
			}
		}
	})
}

// Who is a member can invent names, but not without bounds.
func TestFloodOfNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		n := w.start(1)
		for i := range 2 * maxUnproved {
			node := &memberlist.Node{Name: fmt.Sprint("invented", i), Addr: addrOf(9).Addr().AsSlice(), Port: 1}
			if err := (admission{n.Cluster}).NotifyAlive(node); err == nil {
				t.Fatalf("%s was admitted", node.Name)
			}
		}
		for _, name := range []string{"", strings.Repeat("x", maxName+1)} {
			if err := (admission{n.Cluster}).NotifyAlive(&memberlist.Node{Name: name}); err == nil {
				t.Errorf("%q was admitted", name)
			}
		}
		time.Sleep(2 * provePatience)
		if got := n.counted(EventPhantom); got != maxUnproved {
			t.Errorf("%d phantoms", got)
		}
		w.start(2)
		w.eventually("one that is real", 5*time.Second, w.whole(2))
	})
}

// A member that gossips under a name that no certificate is behind is never one.
func TestPhantom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		w.startAll(5)
		w.eventually("five members", 10*time.Second, w.whole(5))
		phantom := w.start(6, func(c *Config) { c.Name = "phantom" }) // on the wire it is node6
		defer phantom.stop()
		delete(w.nodes, "node6")
		time.Sleep(time.Minute)
		counted := 0
		for _, n := range w.nodes {
			if s := n.state("phantom"); s != "" {
				t.Errorf("the phantom is %s", s)
			}
			counted += n.counted(EventPhantom)
		}
		if counted == 0 {
			t.Error("nobody noticed")
		}
		if !w.whole(5)() {
			t.Error("somebody else is not a member any more")
		}
	})
}

// Fifty nodes that start at once know each other soon, though no two of them have met.
func TestFifty(t *testing.T) {
	for _, loss := range []float64{0, 0.2} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, lossy(loss))
			defer w.stop()
			began := time.Now()
			w.startAll(50)
			took := w.eventually("fifty members", time.Minute, w.whole(50))
			packets, bytes := w.traffic()
			t.Logf("loss %v: fifty members after %v, %d packets and %d KiB (with streams) a node", loss, took, packets/50, bytes/50/1024)
			time.Sleep(time.Minute - time.Since(began))
			w.noneIs(Dead)
			_, before := w.traffic()
			time.Sleep(time.Minute)
			_, after := w.traffic()
			t.Logf("loss %v: at rest %d bytes/s a node", loss, (after-before)/50/60)
		})
	}
}

func (w *world) traffic() (packets, bytes int) {
	for _, n := range w.nodes {
		s := n.carrier.Stats().Sent
		packets += s.Packets
		bytes += s.PacketBytes + s.StreamBytes
	}
	return packets, bytes
}
