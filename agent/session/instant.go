// SPDX-License-Identifier: Apache-2.0

package session

import "time"

// Instant is a reading of CLOCK_BOOTTIME in nanoseconds: it does not jump when the wall
// clock is stepped and does not stop in suspend. It means something only on the host, and
// in the boot, that read it. The zero Instant means "none".
type Instant int64

// Clock reads the two clocks a session needs. Implementations are safe for concurrent use.
type Clock interface {
	// Boot reads CLOCK_BOOTTIME.
	Boot() Instant
	// Coarse is Boot for the hot path: cheap, never ahead of Boot, and behind it by no more than
	// what a suspend in the last second took.
	Coarse() Instant
	// Wall reads the wall clock; for display and for what must outlive a reboot only.
	Wall() time.Time
}

// Add returns i moved by d.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns i - j.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// Earliest returns the earliest of its arguments that is set, or zero.
func Earliest(is ...Instant) Instant {
	var min Instant
	for _, i := range is {
		if i != 0 && (min == 0 || i < min) {
			min = i
		}
	}
	return min
}
