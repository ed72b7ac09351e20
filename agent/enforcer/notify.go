// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// serviceManager is systemd, if it started us and wants to hear of it (sd_notify(3)). The protocol
// is one datagram of lines: too little to bring a dependency into the privileged process for.
type serviceManager struct {
	addr string // of the datagram socket; empty if there is none
}

func newServiceManager() serviceManager {
	return serviceManager{addr: os.Getenv("NOTIFY_SOCKET")}
}

func (s serviceManager) notify(state string) error {
	if s.addr == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.addr, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	defer func() { _ = conn.Close() }() // a datagram is sent or not
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}

// watchdog is how often the service manager wants to be told that we live, or 0 for never.
func (s serviceManager) watchdog() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || us <= 0 || s.addr == "" {
		return 0
	}
	return time.Duration(us) * time.Microsecond / 2
}

// reloading is the state that Type=notify-reload expects: the time of the monotonic clock.
func reloading(monotonic time.Duration) string {
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonic.Microseconds())
}
