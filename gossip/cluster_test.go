// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestJoinAndLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		w.startAll(5)
		t.Logf("five members after %v", w.eventually("five members", time.Second, w.whole(5)))
		n3 := w.nodes["node3"]
		if err := n3.Leave(5 * time.Second); err != nil {
			t.Fatal(err)
		}
		if s := n3.state("node3"); s != Left {
			t.Errorf("one that has left calls itself %s", s)
		}
		n3.stop()
		delete(w.nodes, "node3")
		changed := w.nodes["node1"].counted("changed")
		w.crash("node5")
		took := w.eventually("one has left, one is dead", 30*time.Second, func() bool {
			for _, n := range w.nodes {
				if n.state("node3") != Left || n.state("node5") != Dead {
					return false
				}
			}
			return true
		})
		t.Logf("a death is noticed by all after %v", took)
		if w.nodes["node1"].counted("changed") == changed {
			t.Error("nobody was told of the changes")
		}
		w.crash("node4")
		for _, name := range []string{"node4", "node5"} { // one that is not given up yet, one that is
			w.nodes["node1"].Forget(name)
		}
		time.Sleep(time.Minute)
		if a, b := w.nodes["node1"].state("node4"), w.nodes["node1"].state("node5"); a != "" || b != "" {
			t.Errorf("members that were forgotten are %s and %s", a, b)
		}
		if err := w.nodes["node1"].Send("node5", []byte("x")); err == nil {
			t.Error("a packet to a member that was forgotten was sent")
		}
	})
}

// Who has said goodbye is not looked for, who has died is; also where much is lost.
func TestGoodbyeWithLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lossy(0.2))
		defer w.stop()
		w.startAll(10)
		w.eventually("ten members", time.Minute, w.whole(10))
		if err := w.nodes["node10"].Leave(5 * time.Second); err != nil {
			t.Fatal(err)
		}
		w.nodes["node10"].stop()
		delete(w.nodes, "node10")
		time.Sleep(time.Minute)
		for name, n := range w.nodes {
			if s := n.state("node10"); s != Left {
				t.Errorf("%s takes one that has said goodbye for %s", name, s)
			}
			for _, p := range n.remembered() {
				if p.Name == "node10" {
					t.Errorf("%s will look for one that has left", name)
				}
			}
		}
	})
}

// Who comes back after a goodbye, and dies then, is looked for again.
func TestGoodbyeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		w.startAll(3)
		w.eventually("three members", 10*time.Second, w.whole(3))
		if err := w.nodes["node3"].Leave(time.Second); err != nil {
			t.Fatal(err)
		}
		w.crash("node3")
		w.start(3)
		w.eventually("it is back", 10*time.Second, w.whole(3))
		w.crash("node3")
		w.eventually("it is dead", 30*time.Second, func() bool { return w.nodes["node1"].state("node3") == Dead && w.nodes["node2"].state("node3") == Dead })
	})
}

func TestLossKillsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lossy(0.2))
		defer w.stop()
		w.startAll(5)
		t.Logf("five members after %v", w.eventually("five members", time.Minute, w.whole(5)))
		for range 600 {
			time.Sleep(time.Second)
			w.noneIs(Dead)
		}
	})
}

// noneIs fails if a node takes another for what is given.
func (w *world) noneIs(state State) {
	w.t.Helper()
	for name, n := range w.nodes {
		for _, m := range n.Members() {
			if m.State == state {
				w.t.Fatalf("%s takes %s for %s", name, m.Name, state)
			}
		}
	}
}
