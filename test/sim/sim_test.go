// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"flag"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seed = flag.Uint64("seed", 1, "of the first run; the same seed gives the same events")
	many = flag.Int("nodes", 50, "of TestMany; from 1,000 on nothing is cut, and nobody restarts")
)

// simulate makes a run in a bubble, which sees to it that no goroutine is left.
func simulate(t *testing.T, r run) {
	t.Helper()
	began := time.Now()
	var figures string
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, r)
		defer func() { figures = w.figures() }()
		defer w.stop()
		w.startAll()
		if w.chaos(); !t.Failed() {
			w.heal()
		}
	})
	t.Logf("%s, %.1f s", figures, time.Since(began).Seconds())
}

func TestFive(t *testing.T) {
	for _, loss := range []float64{0, 0.1, 0.3} {
		for s := range uint64(3) {
			t.Run(fmt.Sprintf("loss %.1f, seed %d", loss, *seed+s), func(t *testing.T) {
				simulate(t, run{nodes: 5, loss: loss, seed: *seed + s, chaos: 4 * time.Minute, every: 500 * time.Millisecond, tick: 50 * time.Millisecond, after: 10 * time.Second})
			})
		}
	}
}

func TestMany(t *testing.T) {
	r := run{nodes: *many, loss: 0.1, seed: *seed, chaos: time.Minute, every: 500 * time.Millisecond, tick: 100 * time.Millisecond, after: 10 * time.Second}
	if r.nodes > 100 { // a second of it takes a second and more
		r.chaos, r.tick, r.after = 40*time.Second, 200*time.Millisecond, 5*time.Second
	}
	if r.nodes >= 1000 {
		r.chaos, r.every, r.after, r.gentle = 6*time.Second, 200*time.Millisecond, time.Second, true
	}
	simulate(t, r)
}
