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

// scrubber collects garbage soon after tokens were given up, so that what is left of them in memory is overwritten. Of
// many at once it takes care together.
type scrubber chan struct{}

const scrubEvery = 2 * time.Second

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
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s:
		}
		timer := time.NewTimer(scrubEvery) // for connections to be closed, and others to be done
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		before()
		// The first finds garbage, but not what lies in a sync.Pool, which the second does; each ends the sweep of the one
		// before, and the last is for the second's.
		for range 3 {
			runtime.GC()
		}
	}
}
