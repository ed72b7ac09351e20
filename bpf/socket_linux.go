// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Keepalive of a tagged socket in normal operation; arm.h has the values of its last seconds.
const (
	keepIdleSeconds     = 15
	keepIntervalSeconds = 5
	keepProbes          = 3
)

// control runs fn with conn's descriptor.
func control(conn syscall.Conn, fn func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// identify reads what names the socket fd, and refuses what is not plain TCP in the network
// namespace with that cookie.
func identify(fd int, netnsCookie uint64) (s session.Socket, err error) {
	proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return s, os.NewSyscallError("SO_PROTOCOL", err)
	}
	if proto != unix.IPPROTO_TCP {
		return s, fmt.Errorf("protocol %d is not TCP: %w", proto, ErrNotGated)
	}
	netns, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return s, os.NewSyscallError("SO_NETNS_COOKIE", err)
	}
	if netns != netnsCookie {
		return s, fmt.Errorf("another network namespace: %w", ErrNotGated)
	}
	if s.Cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return s, os.NewSyscallError("SO_COOKIE", err)
	}
	if s.Tuple.Local, err = address(unix.Getsockname(fd)); err != nil {
		return s, os.NewSyscallError("getsockname", err)
	}
	if s.Tuple.Remote, err = address(unix.Getpeername(fd)); err != nil {
		return s, os.NewSyscallError("getpeername", err)
	}
	return s, nil
}

func address(sa unix.Sockaddr, err error) (netip.AddrPort, error) {
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, unix.EAFNOSUPPORT
}

// relaxTimers sets the stack's timers to those of normal operation.
func relaxTimers(fd int) error {
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepIdleSeconds},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepIntervalSeconds},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepProbes},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return os.NewSyscallError("setsockopt keepalive", err)
		}
	}
	return nil
}

// ownNetnsCookie names the network namespace of the calling thread.
func ownNetnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }() // never used
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return cookie, os.NewSyscallError("SO_NETNS_COOKIE", err)
}
