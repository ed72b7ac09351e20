// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
)

// The PROXY protocol, version 2 (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt,
// section 2.2), with what Curfew adds for upstreams that want to know who is there.
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyCommand   = 0x21 // version 2, PROXY
	proxyTCP4      = 0x11
	proxyTCP6      = 0x21

	tlvUniqueID = 0x05 // "SESSION.CONNECTION": the session's ID and the connection's number

	// Types from 0xE0 on are for applications.
	tlvSession = 0xE0
	tlvIssuer  = 0xE1
	tlvSubject = 0xE2

	maxUniqueID = 128
	maxTLV      = 1024 // of ours: the header must fit the upstream's first read
)

// proxyHeader describes c to its upstream.
func proxyHeader(c *conn) []byte {
	local := c.client.LocalAddr().(*net.TCPAddr).AddrPort()
	id := c.session.ID.String()
	return appendProxyHeader(nil, c.source, local,
		tlv{tlvUniqueID, id + "." + strconv.FormatUint(c.id, 10)},
		tlv{tlvSession, id},
		tlv{tlvIssuer, c.session.Identity.Issuer},
		tlv{tlvSubject, c.session.Identity.Subject})
}

type tlv struct {
	typ   byte
	value string
}

// appendProxyHeader appends the header of a connection from src to dst. Addresses of two families
// become IPv6. Values that are too long are cut: no upstream should fail for a long subject.
func appendProxyHeader(b []byte, src, dst netip.AddrPort, tlvs ...tlv) []byte {
	b = append(b, proxySignature...)
	b = append(b, proxyCommand)
	from, to := src.Addr().Unmap(), dst.Addr().Unmap()
	if from.Is4() && to.Is4() {
		b = append(b, proxyTCP4, 0, 0)
		b = append(b, from.AsSlice()...)
		b = append(b, to.AsSlice()...)
	} else {
		b = append(b, proxyTCP6, 0, 0)
		from16, to16 := from.As16(), to.As16()
		b = append(b, from16[:]...)
		b = append(b, to16[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	for _, t := range tlvs {
		v := t.value[:min(len(t.value), maxTLV)]
		b = append(b, t.typ)
		b = binary.BigEndian.AppendUint16(b, uint16(len(v)))
		b = append(b, v...)
	}
	binary.BigEndian.PutUint16(b[14:], uint16(len(b)-16))
	return b
}
