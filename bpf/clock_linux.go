// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Now reads CLOCK_BOOTTIME, the clock of every deadline in the maps.
func Now() session.Instant {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail: the clock exists since 2.6.39
	return session.Instant(ts.Nano())
}
