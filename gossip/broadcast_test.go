// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestBroadcastReachesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lossy(0.2))
		defer w.stop()
		w.startAll(50)
		w.eventually("fifty members", time.Minute, w.whole(50))
		misses, slowest := 0, time.Duration(0)
		const all = 40
		for i := range all {
			text := fmt.Sprint("message ", i)
			began := time.Now()
			if err := w.nodes[nameOf(i+1)].Broadcast(text, []byte(text)); err != nil {
				t.Fatal(err)
			}
			missing := 49
			for missing > 0 && time.Since(began) < 3*time.Second {
				time.Sleep(10 * time.Millisecond)
				missing = 0
				for name, n := range w.nodes {
					if name != nameOf(i+1) && !n.has(text) {
						missing++
					}
				}
			}
			misses += missing
			if missing == 0 {
				slowest = max(slowest, time.Since(began))
			}
		}
		t.Logf("with 20 %% loss %d of %d were missed; the slowest of the others took %v", misses, all*49, slowest)
		if misses > all*49/100 { // anti-entropy is for the rest
			t.Errorf("more than one in a hundred missed")
		}
	})
}

func TestBroadcastBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		n := w.start(1)
		if err := n.Broadcast("x", make([]byte, MaxBroadcast+1)); err == nil {
			t.Error("a broadcast that fits into no packet was taken")
		}
		for i := range 10 {
			if err := n.Broadcast("the same key", fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
		if got := n.cast.queue.NumQueued(); got != 1 {
			t.Errorf("%d broadcasts of one key wait", got)
		}
		for i := range maxBroadcasts + 10 {
			if err := n.Broadcast(fmt.Sprint(i), make([]byte, MaxBroadcast)); err != nil {
				t.Fatal(err)
			}
		}
		if got := n.cast.queue.NumQueued(); got != maxBroadcasts || n.counted(EventBroadcastFull) == 0 {
			t.Errorf("%d broadcasts wait, %d times too many", got, n.counted(EventBroadcastFull))
		}
		w.start(2)
		largest := string(make([]byte, MaxBroadcast)) // one is not refused, and fits
		w.eventually("the largest broadcast", 10*time.Second, func() bool { return w.nodes["node2"].has(largest) })
	})
}

// Where a newer message of the same key is passed on, the older is no longer.
func TestBroadcastKeysTravel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		w.startAll(2)
		w.eventually("two members", 10*time.Second, w.whole(2))
		w.net.Part("node2") // what is passed on stays where it is
		n := w.nodes["node2"]
		for i := range 5 {
			n.cast.incoming <- broadcast(fmt.Append([]byte("12345678"), i))
		}
		n.cast.incoming <- broadcast("anotherkey")
		synctest.Wait()
		if got := n.cast.queue.NumQueued(); got != 2 {
			t.Errorf("%d broadcasts of two keys wait", got)
		}
	})
}

// A handler that is stuck costs broadcasts, not memberlist its packets.
func TestGossipedBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		n := w.start(1)
		n.gate = make(chan struct{})
		const all = 2 * castBacklog
		buffer := []byte("12345678same")
		for range all {
			delegate{n.Cluster}.NotifyMsg(buffer)
			synctest.Wait()
		}
		buffer[8] = 'S' // it is memberlist's again
		if lost := n.counted(EventGossipFull); lost != all-castBacklog-1 {
			t.Errorf("%d of %d were lost", lost, all)
		}
		close(n.gate)
		synctest.Wait()
		if !n.has("same") || n.has("Same") {
			t.Error("the buffer of memberlist was kept")
		}
		delegate{n.Cluster}.NotifyMsg([]byte("short"))
		if n.counted(EventMalformed) != 1 {
			t.Error("a message without a key was not counted")
		}
	})
}

func FuzzParseBroadcast(f *testing.F) {
	f.Add([]byte("12345678data"))
	f.Add([]byte("1234567"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if b, err := parseBroadcast(in); err == nil && b.Name()+string(b.data()) != string(in) {
			t.Errorf("%q became %q and %q", in, b.Name(), b.data())
		}
	})
}
