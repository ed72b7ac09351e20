// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"encoding/binary"
	"sync/atomic"
)

// Stats count what the enforcer does on its own, since it started. The proxy process is told once a
// second, for its metrics: the enforcer itself talks to nobody else.
type Stats struct {
	Sweeps uint64 // passes over all sockets
	Swept  uint64 // sockets of ended sessions that a pass destroyed
	Missed uint64 // times the proxy's heartbeats were found missing
}

// statsLen is the size of the body of a Stats message in bytes.
const statsLen = 24

func (s Stats) append(b []byte) []byte {
	for _, n := range []uint64{s.Sweeps, s.Swept, s.Missed} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

func decodeStats(b []byte) Stats {
	return Stats{
		Sweeps: binary.LittleEndian.Uint64(b), Swept: binary.LittleEndian.Uint64(b[8:]), Missed: binary.LittleEndian.Uint64(b[16:]),
	}
}

// counters are Stats on their way. Safe for concurrent use.
type counters struct{ sweeps, swept, missed atomic.Uint64 }

func (c *counters) stats() Stats { return Stats{c.sweeps.Load(), c.swept.Load(), c.missed.Load()} }
