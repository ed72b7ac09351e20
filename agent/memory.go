// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"os"
	"runtime/debug"
)

// tuneMemory lets garbage grow to half of what lives, but to no less than 16 MiB: an idle connection
// costs little that way, and a handshake, which leaves 60 KiB of garbage, does not cause a
// collection every few dozen. GOGC in the environment has the last word. The caller keeps the ballast
// alive: it is never touched, so it takes no memory, but counts as living for the collector.
func tuneMemory() (ballast []byte) {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	debug.SetGCPercent(50)
	return make([]byte, 32<<20)
}
