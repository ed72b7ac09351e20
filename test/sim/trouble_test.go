// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

func (w *world) raise(rng *rand.Rand) {
	n, l := w.anyNode(rng)
	if l == nil {
		return
	}
	subject := fmt.Sprint("user", rng.IntN(30))
	w.note("%s: raise %s", n.name, subject)
	w.book.raise(n, subject)
	w.wait.Go(func() {
		mark := session.Watermark{Issuer: "https://idp", Subject: subject, Origin: n.origin(), Before: session.OriginTime(n.clock.Boot()),
			End: session.End{Reason: session.ReasonWatermark, By: "root@" + n.name}}
		if _, err := l.engine.Raise(mark); err != nil {
			w.fail("%s: raise: %v", n.name, err)
		}
	})
}

// step steps a wall clock by hours.
func (w *world) step(rng *rand.Rand) {
	n := w.nodes[rng.IntN(len(w.nodes))]
	by := draw(rng, -12*time.Hour, 12*time.Hour)
	w.note("%s: the wall clock steps by %v", n.name, by)
	n.clock.step(by)
}

// restart ends a node's process and starts it again; at most a third of them are down.
func (w *world) restart(rng *rand.Rand) {
	n, crash, rest := w.nodes[rng.IntN(len(w.nodes))], rng.IntN(2) == 0, draw(rng, 200*time.Millisecond, 30*time.Second)
	down := 0
	for _, other := range w.nodes {
		if other.away.Load() {
			down++
		}
	}
	if down >= (len(w.nodes)+2)/3 || !n.away.CompareAndSwap(false, true) {
		return
	}
	w.note("%s: stops, crash %v, for %v", n.name, crash, rest)
	w.wait.Go(func() {
		n.stop(crash)
		time.Sleep(rest)
		n.start()
		n.away.Store(false)
		w.note("%s: starts", n.name)
	})
}

// part cuts ways, and mends them after a while.
func (w *world) part(rng *rand.Rand, ways [][2]int) {
	for _, way := range ways {
		w.cut(way[0], way[1], true)
	}
	length := draw(rng, time.Second, 25*time.Second)
	w.later(length, func() {
		for _, way := range ways {
			w.cut(way[0], way[1], false)
		}
	})
}

// isolate cuts a node off from all others.
func (w *world) isolate(rng *rand.Rand) {
	i := rng.IntN(len(w.nodes))
	w.note("n%d: isolated", i)
	w.part(rng, w.between(func(j int) bool { return j == i }, true))
}

// oneWay lets nothing from one node get to others: to one, or to all.
func (w *world) oneWay(rng *rand.Rand) {
	a, b := rng.IntN(len(w.nodes)), rng.IntN(len(w.nodes))
	if all := rng.IntN(3) == 0; all {
		w.note("n%d: nothing gets out", a)
		w.part(rng, w.between(func(j int) bool { return j == a }, false))
	} else if a != b {
		w.note("n%d: nothing gets to n%d", a, b)
		w.part(rng, [][2]int{{a, b}})
	}
}

// split parts the cluster in two.
func (w *world) split(rng *rand.Rand) {
	in := map[int]bool{}
	for i := range w.nodes {
		in[i] = rng.IntN(2) == 0
	}
	w.note("split: %v", in)
	w.part(rng, w.between(func(i int) bool { return in[i] }, true))
}

// between returns the ways out of a part of the cluster, and those into it.
func (w *world) between(in func(int) bool, both bool) (ways [][2]int) {
	for a := range w.nodes {
		for b := range w.nodes {
			if in(a) && !in(b) {
				ways = append(ways, [2]int{a, b})
				if both {
					ways = append(ways, [2]int{b, a})
				}
			}
		}
	}
	return ways
}
