// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// lastPayload is session.Activity.LastPayload: it reads from the stack's own timestamps
// (tcpi_last_data_recv, in milliseconds) when a leg last received payload. Keepalives and pure
// acknowledgements do not count. Zero once the leg is closed.
func (c *conn) lastPayload(leg session.Leg) session.Instant {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ago time.Duration
	var ok bool
	switch {
	case c.flow != nil:
		ago, ok = c.flow.sinceData(int(leg - session.ClientLeg))
	case leg == session.ClientLeg:
		ago, ok = sinceData(c.client)
	default:
		ago, ok = sinceData(c.upstream)
	}
	if !ok {
		return 0
	}
	return c.proxy.cfg.Clock.Boot().Add(-ago)
}

func (f *flow) sinceData(end int) (time.Duration, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, false
	}
	return lastDataRecv(f.ends[end].fd)
}

func sinceData(tcp *net.TCPConn) (ago time.Duration, ok bool) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, false
	}
	_ = raw.Control(func(fd uintptr) { ago, ok = lastDataRecv(int(fd)) }) // an error means closed
	return ago, ok
}

func lastDataRecv(fd int) (time.Duration, bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return time.Duration(info.Last_data_recv) * time.Millisecond, true
}
