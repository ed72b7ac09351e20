// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// The sock_diag protocol (linux/sock_diag.h, linux/inet_diag.h) as far as it is used here.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21

	diagCgroupID = 21 // INET_DIAG_CGROUP_ID, since 5.8

	nlHeaderLen  = unix.SizeofNlMsghdr
	diagReqLen   = 56 // struct inet_diag_req_v2
	diagMsgLen   = 72 // struct inet_diag_msg
	requestLen   = nlHeaderLen + diagReqLen
	tcpTimeWait  = 6
	allTCPStates = 0xffffffff
)

// appendRequest appends a request that names one socket by tuple AND cookie. With no cookie the
// kernel would fall back to the listener when the socket is gone, and destroy that.
func appendRequest(b []byte, kind uint16, seq uint32, s session.Socket) []byte {
	b = binary.NativeEndian.AppendUint32(b, requestLen)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // port id: the kernel fills it in

	local, remote := s.Tuple.Local.Addr().Unmap(), s.Tuple.Remote.Addr().Unmap()
	family := byte(unix.AF_INET6)
	if local.Is4() && remote.Is4() { // also an IPv6 socket of mapped addresses
		family = unix.AF_INET
	}
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, allTCPStates)
	b = binary.BigEndian.AppendUint16(b, s.Tuple.Local.Port())
	b = binary.BigEndian.AppendUint16(b, s.Tuple.Remote.Port())
	b = appendAddr(b, family, local)
	b = appendAddr(b, family, remote)
	b = binary.NativeEndian.AppendUint32(b, 0) // interface: any
	b = binary.NativeEndian.AppendUint32(b, uint32(s.Cookie))
	return binary.NativeEndian.AppendUint32(b, uint32(s.Cookie>>32))
}

func appendAddr(b []byte, family byte, a netip.Addr) []byte {
	if family == unix.AF_INET {
		v4 := a.As4()
		return append(append(b, v4[:]...), make([]byte, 12)...)
	}
	v6 := a.As16()
	return append(b, v6[:]...)
}

// diagReply is one netlink message from the kernel: either an error (0 acknowledges) or a socket.
type diagReply struct {
	seq    uint32
	errno  unix.Errno
	isSock bool
	state  uint8
	cgroup uint64 // 0 if the kernel did not say
}

// nextReply takes the first message off b.
func nextReply(b []byte) (r diagReply, rest []byte, err error) {
	if len(b) < nlHeaderLen {
		return r, nil, fmt.Errorf("netlink reply: %d bytes", len(b))
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < nlHeaderLen || n > len(b) {
		return r, nil, fmt.Errorf("netlink reply: length %d of %d", n, len(b))
	}
	kind := binary.NativeEndian.Uint16(b[4:])
	r.seq = binary.NativeEndian.Uint32(b[8:])
	body := b[nlHeaderLen:n]
	rest = b[min(align4(n), len(b)):]
	switch {
	case kind == unix.NLMSG_ERROR && len(body) >= 4:
		r.errno = unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
	case kind == sockDiagByFamily && len(body) >= diagMsgLen:
		r.isSock = true
		r.state = body[1]
		r.cgroup = cgroupAttr(body[diagMsgLen:])
	default:
		return r, nil, fmt.Errorf("netlink reply: type %d with %d bytes", kind, len(body))
	}
	return r, rest, nil
}

func cgroupAttr(b []byte) uint64 {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return 0
		}
		if binary.NativeEndian.Uint16(b[2:]) == diagCgroupID && n == 12 {
			return binary.NativeEndian.Uint64(b[4:])
		}
		b = b[min(align4(n), len(b)):]
	}
	return 0
}

func align4(n int) int { return (n + 3) &^ 3 }
