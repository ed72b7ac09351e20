// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"flag"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

var seed = flag.Uint64("seed", 1, "of the first run; the same seed gives the same events")

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

func TestFifty(t *testing.T) {
	simulate(t, run{nodes: 50, loss: 0.1, seed: *seed, chaos: time.Minute, every: 500 * time.Millisecond, tick: 100 * time.Millisecond, after: 10 * time.Second})
}
