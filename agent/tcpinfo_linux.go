// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// lastPayload reads when payload was last received from a leg, from the stack's own timestamps
// (tcpi_last_data_recv, in milliseconds): keepalives and pure acknowledgements do not count.
func lastPayload(clock session.Clock, client, upstream *net.TCPConn) func(session.Leg) session.Instant {
	return func(leg session.Leg) session.Instant {
		conn := client
		if leg == session.UpstreamLeg {
			conn = upstream
		}
		raw, err := conn.SyscallConn()
		if err != nil {
			return 0 // closed
		}
		var at session.Instant
		_ = raw.Control(func(fd uintptr) { // fails when closed: at stays zero
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err == nil {
				at = clock.Boot().Add(-time.Duration(info.Last_data_recv) * time.Millisecond)
			}
		})
		return at
	}
}
