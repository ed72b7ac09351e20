// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"runtime"
	"time"
)

// clobberFree makes the Go runtime overwrite what its collector frees (GODEBUG of package runtime): the buffers of
// net/http and crypto/tls, and the strings that decoders make, hold copies of tokens that nobody else can wipe.
const clobberFree = "clobberfree=1"

// scrubber collects garbage after tokens were given up, so that what is left of them in memory is overwritten. Of many at
// once it takes care together.
type scrubber chan struct{}

// scrubPauses are how long after tokens were given up, and after the time before, garbage is collected: once soon, and
// again for what was still in use then, such as a connection's buffers. With tokens given up all the time the second
// is how often.
var scrubPauses = []time.Duration{2 * time.Second, 10 * time.Second, 20 * time.Second}

// scrubSettle is for what was told to end, and holds on to memory until it has.
const scrubSettle = 200 * time.Millisecond

func newScrubber() scrubber { return make(scrubber, 1) }

// soon asks for it; it does not block.
func (s scrubber) soon() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// run calls before whenever it is about to collect.
func (s scrubber) run(ctx context.Context, before func()) error {
	next := len(scrubPauses) // of the pauses; beyond them: nothing to do
	for {
		var timer <-chan time.Time
		if next < len(scrubPauses) {
			timer = time.After(scrubPauses[next])
		} else {
			select {
			case <-ctx.Done():
				return nil
			case <-s:
				next = 0
				continue
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer:
		}
		select { // what was given up meanwhile: after this time there is to be another
		case <-s:
			next = 0
		default:
		}
		before()
		time.Sleep(scrubSettle)
		collect()
		next++
	}
}

// collect frees what can be freed. The first collection finds garbage, but not what lies in a sync.Pool, which the second
// does; each ends the sweep of the one before, and the last is for the second's.
func collect() {
	for range 3 {
		runtime.GC()
	}
}
