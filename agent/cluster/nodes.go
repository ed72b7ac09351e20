// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"slices"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Node is what this node knows of another. Instants are of this host's clock; zero: never.
type Node struct {
	Name  string
	State MemberState
	Since session.Instant

	// Told by the node in clock exchanges; Heard is when the last was completed.
	Heard    session.Instant
	Sessions int
	Ready    bool

	Connections int

	RoundTrip  time.Duration
	Offset     time.Duration // what this host's CLOCK_BOOTTIME reads when the node's reads zero
	Bound      time.Duration // how far Offset may be off; zero: Offset is not known
	WallAhead  time.Duration // its wall clock to ours
	WallSkewed bool          // by more than a second

	Synced session.Instant // when a round of anti-entropy with it was completed last
	Outbox int             // items that it has not acknowledged
}

// Nodes returns what is known of the other nodes, by name.
func (e *Engine) Nodes() []Node {
	var list []Node
	for _, p := range e.allPeers() {
		origin, known := p.origin()
		n := Node{Name: p.name, Outbox: p.outbox.length()}
		if known {
			n.Offset, n.Bound, known = e.cfg.Timebase.Offset(origin)
			if known {
				n.Bound = max(n.Bound, 1)
			}
		}
		p.mu.Lock()
		n.State, n.Since, n.Heard, n.Sessions, n.Connections, n.Ready = p.state, p.since, p.heard, p.sessions, p.connections, p.ready
		n.RoundTrip, n.WallAhead, n.WallSkewed, n.Synced = p.trip, p.skew, p.skewed, p.synced
		p.mu.Unlock()
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
