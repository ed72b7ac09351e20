// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"os"
	"testing"
	"time"
)

// largeEnv makes TestLarge run: "make cluster-sim" sets it to the number of nodes.
const largeEnv = "CURFEW_SIM_NODES"

// TestLarge is for more nodes than a plain test has time for.
func TestLarge(t *testing.T) {
	r := run{loss: 0.1, seed: *seed, tick: 200 * time.Millisecond, every: 500 * time.Millisecond, after: 5 * time.Second}
	switch n := os.Getenv(largeEnv); n {
	case "":
		t.Skip("make cluster-sim runs it: it takes minutes")
	case "200":
		r.nodes, r.chaos = 200, 40*time.Second
	case "1000":
		r.nodes, r.chaos, r.gentle = 1000, 6*time.Second, true
		r.every, r.after = 200*time.Millisecond, time.Second
	default:
		t.Fatalf("%s=%s: want 200 or 1000", largeEnv, n)
	}
	simulate(t, r)
}
