// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
)

// messageType is the kind of a message; the comment says who sends it and what its body is.
type messageType uint8

const (
	typeReady     messageType = 1 + iota // proxy: it serves
	typeHeartbeat                        // proxy: its main loops run
	typeKill                             // proxy: count sockets
	typeSweep                            // proxy: sweep now
	typeStatus                           // proxy: text for the service manager, statusLen bytes
	typeGoodbye                          // proxy: it is done draining and exits
	typeKilled                           // enforcer: duration in ns, then count outcomes
	typeDrain                            // enforcer: accept no more, finish
	typeReload                           // enforcer: read the configuration again
	typeStats                            // enforcer: what it has counted, statsLen bytes
	typeEnd
)

// Sizes in bytes. Integers are little-endian, as on every host this runs on.
const (
	protocolVersion = 1
	headerLen       = 24 // version, type, flags(2), seq(4), number(8), count(4), 0(4)
	socketLen       = 48 // local(16), remote(16), ports(2+2), leg(1), 0(3), cookie(8)
	statusLen       = 128

	maxSockets  = 1024  // in one message
	maxOutcomes = 32768 // in one message
	maxMessage  = headerLen + maxSockets*socketLen

	flagMore = 1 // another message of the same seq continues this one
)

// message is any message, decoded. Which fields are set depends on the type.
type message struct {
	typ      messageType
	more     bool
	seq      uint32
	number   uint64 // Kill: the session, for the log
	sockets  []session.Socket
	outcomes []bpf.Outcome
	duration time.Duration
	status   string
	stats    Stats
}

// append encodes m to b.
func (m *message) append(b []byte) []byte {
	count, flags := len(m.sockets)+len(m.outcomes), uint16(0)
	if m.more {
		flags = flagMore
	}
	b = append(b, protocolVersion, byte(m.typ))
	b = binary.LittleEndian.AppendUint16(b, flags)
	b = binary.LittleEndian.AppendUint32(b, m.seq)
	b = binary.LittleEndian.AppendUint64(b, m.number)
	b = binary.LittleEndian.AppendUint32(b, uint32(count))
	b = binary.LittleEndian.AppendUint32(b, 0)
	switch m.typ {
	case typeKill:
		for i := range m.sockets {
			b = appendSocket(b, &m.sockets[i])
		}
	case typeKilled:
		b = binary.LittleEndian.AppendUint64(b, uint64(m.duration))
		for _, o := range m.outcomes {
			b = append(b, byte(o))
		}
	case typeStats:
		b = m.stats.append(b)
	case typeStatus:
		var text [statusLen]byte
		copy(text[:], m.status)
		b = append(b, text[:]...)
	}
	return b
}

// decode replaces m with the message in b, reusing its slices. It accepts exactly what append
// writes.
func (m *message) decode(b []byte) error {
	if len(b) < headerLen {
		return fmt.Errorf("message of %d bytes", len(b))
	}
	flags, count := binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[16:])
	*m = message{
		typ: messageType(b[1]), more: flags == flagMore,
		seq: binary.LittleEndian.Uint32(b[4:]), number: binary.LittleEndian.Uint64(b[8:]),
		sockets: m.sockets[:0], outcomes: m.outcomes[:0],
	}
	if b[0] != protocolVersion || m.typ == 0 || m.typ >= typeEnd || flags > flagMore || binary.LittleEndian.Uint32(b[20:]) != 0 {
		return fmt.Errorf("message header %x", b[:headerLen])
	}
	body := b[headerLen:]
	if want := bodyLen(m.typ, count); want != len(body) {
		return fmt.Errorf("message of type %d and count %d has a body of %d bytes, want %d", m.typ, count, len(body), want)
	}
	switch m.typ {
	case typeKill:
		return m.decodeSockets(body)
	case typeKilled:
		return m.decodeOutcomes(body)
	case typeStats:
		m.stats = decodeStats(body)
	case typeStatus:
		return m.decodeStatus(body)
	}
	return nil
}

// bodyLen is how long the body of a message must be, or -1 if the count is out of bounds.
func bodyLen(t messageType, count uint32) int {
	switch {
	case t == typeKill && count > 0 && count <= maxSockets:
		return int(count) * socketLen
	case t == typeKilled && count > 0 && count <= maxOutcomes:
		return 8 + int(count)
	case t == typeStatus && count == 0:
		return statusLen
	case t == typeStats && count == 0:
		return statsLen
	case t == typeKill || t == typeKilled || count != 0:
		return -1
	}
	return 0
}

func appendSocket(b []byte, s *session.Socket) []byte {
	local, remote := s.Tuple.Local.Addr().As16(), s.Tuple.Remote.Addr().As16()
	b = append(b, local[:]...)
	b = append(b, remote[:]...)
	b = binary.LittleEndian.AppendUint16(b, s.Tuple.Local.Port())
	b = binary.LittleEndian.AppendUint16(b, s.Tuple.Remote.Port())
	b = append(b, byte(s.Leg), 0, 0, 0)
	return binary.LittleEndian.AppendUint64(b, s.Cookie)
}

func (m *message) decodeSockets(b []byte) error {
	for ; len(b) > 0; b = b[socketLen:] {
		s := session.Socket{
			Tuple: session.Tuple{
				Local:  netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[0:16])).Unmap(), binary.LittleEndian.Uint16(b[32:])),
				Remote: netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[16:32])).Unmap(), binary.LittleEndian.Uint16(b[34:])),
			},
			Leg:    session.Leg(b[36]),
			Cookie: binary.LittleEndian.Uint64(b[40:]),
		}
		// Without a cookie SOCK_DESTROY may hit a listener.
		if s.Cookie == 0 || b[37]|b[38]|b[39] != 0 {
			return fmt.Errorf("socket %x", b[:socketLen])
		}
		m.sockets = append(m.sockets, s)
	}
	return nil
}

func (m *message) decodeOutcomes(b []byte) error {
	m.duration = time.Duration(binary.LittleEndian.Uint64(b))
	if m.duration < 0 {
		return fmt.Errorf("duration %d", m.duration)
	}
	for _, o := range b[8:] {
		if bpf.Outcome(o) > bpf.Failed {
			return fmt.Errorf("outcome %d", o)
		}
		m.outcomes = append(m.outcomes, bpf.Outcome(o))
	}
	return nil
}

// decodeStatus accepts printable ASCII up to the padding of zeros: the text goes on to the
// service manager, whose protocol is lines.
func (m *message) decodeStatus(b []byte) error {
	n := 0
	for n < len(b) && b[n] != 0 {
		if b[n] < ' ' || b[n] > '~' {
			return fmt.Errorf("status byte %#x", b[n])
		}
		n++
	}
	for _, c := range b[n:] {
		if c != 0 {
			return fmt.Errorf("status byte %#x after its end", c)
		}
	}
	m.status = string(b[:n])
	return nil
}
