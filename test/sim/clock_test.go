// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// clock is that of a host that booted at some time of its own, drifts, and has a wrong wall clock.
type clock struct {
	start time.Time
	boot  time.Duration // what CLOCK_BOOTTIME read at start
	ppm   int64

	mu   sync.Mutex
	wall time.Duration // how far the wall clock is ahead
}

// Boot, Coarse and Wall implement session.Clock.
func (c *clock) Boot() session.Instant {
	d := time.Since(c.start)
	return session.Instant(c.boot + d + d*time.Duration(c.ppm)/1_000_000)
}

func (c *clock) Coarse() session.Instant { return c.Boot() }

func (c *clock) Wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.wall)
}

func (c *clock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall += d
}
