// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"unsafe"
)

// GateStats counts the packets that took any way through the gate but the common one.
type GateStats struct {
	NoSocket       uint64 // passed: of no full socket
	Untagged       uint64 // passed: not a relayed connection
	Resets         uint64 // passed: a bare RST after the end
	NoSession      uint64 // dropped: the session was ended
	SessionOver    uint64 // dropped: past the session's deadline
	ConnectionOver uint64 // dropped: past the connection's own deadline
	Unparsed       uint64 // dropped after the end: not readable as a TCP segment
}

// GateStats reads the gate's counters, summed over the CPUs, since the instance was loaded.
func (t *Tagger) GateStats() (GateStats, error) { return t.maps.gateStats() }

// GateStats is Tagger.GateStats with no process of the agent to ask.
func (p *Pinned) GateStats() (GateStats, error) { return p.maps.gateStats() }

func (m *curfewMaps) gateStats() (GateStats, error) {
	var sums [curfewGateStatGATE_STATS]uint64
	for i := range sums {
		var perCPU []uint64
		key := uint32(i)
		if err := m.GateStats.Lookup(&key, &perCPU); err != nil {
			return GateStats{}, fmt.Errorf("gate counters: %w", err)
		}
		for _, n := range perCPU {
			sums[i] += n
		}
	}
	return GateStats{
		NoSocket:       sums[curfewGateStatGATE_NO_SOCKET],
		Untagged:       sums[curfewGateStatGATE_UNTAGGED],
		Resets:         sums[curfewGateStatGATE_RESET],
		NoSession:      sums[curfewGateStatGATE_NO_SESSION],
		SessionOver:    sums[curfewGateStatGATE_SESSION_OVER],
		ConnectionOver: sums[curfewGateStatGATE_CONNECTION_OVER],
		Unparsed:       sums[curfewGateStatGATE_UNPARSED],
	}, nil
}

func binarySize[T any]() int {
	var v T
	return int(unsafe.Sizeof(v))
}
