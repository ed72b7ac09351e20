// SPDX-License-Identifier: Apache-2.0

package mesh

import "time"

// LinkStats is what is known of the link to a peer.
type LinkStats struct {
	Name, Addr     string
	Since          time.Time
	RTT            time.Duration // smoothed
	Sent, Received uint64        // packets
	BytesLost      uint64        // by the count of this end's loss detection
}

// Stats returns the links that are up, in no order.
func (m *Mesh) Stats() []LinkStats {
	var stats []LinkStats
	for _, l := range m.liveLinks() {
		s := l.conn.ConnectionStats()
		stats = append(stats, LinkStats{
			Name: l.name, Addr: l.conn.RemoteAddr().String(), Since: l.since,
			RTT: s.SmoothedRTT, Sent: l.sent.Load(), Received: l.received.Load(), BytesLost: s.BytesLost,
		})
	}
	return stats
}
