// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// parseProxyHeader reads what appendProxyHeader writes, by the specification's words.
func parseProxyHeader(t *testing.T, r io.Reader) (src, dst netip.AddrPort, tlvs map[byte]string) {
	t.Helper()
	head := make([]byte, 16)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	if string(head[:12]) != "\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A" || head[12] != 0x21 {
		t.Fatalf("head % x", head)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[14:]))
	if _, err := io.ReadFull(r, body); err != nil {
		t.Fatal(err)
	}
	size := map[byte]int{0x11: 4, 0x21: 16}[head[13]]
	if size == 0 {
		t.Fatalf("family %#x", head[13])
	}
	addr := func() netip.Addr {
		a, _ := netip.AddrFromSlice(body[:size])
		body = body[size:]
		return a
	}
	port := func() uint16 {
		p := binary.BigEndian.Uint16(body)
		body = body[2:]
		return p
	}
	from, to := addr(), addr()
	src, dst = netip.AddrPortFrom(from, port()), netip.AddrPortFrom(to, port())
	tlvs = make(map[byte]string)
	for len(body) > 0 {
		n := int(binary.BigEndian.Uint16(body[1:]))
		tlvs[body[0]] = string(body[3 : 3+n])
		body = body[3+n:]
	}
	return src, dst, tlvs
}

func TestProxyHeader(t *testing.T) {
	for _, test := range []struct{ src, dst, wantSrc, wantDst string }{
		{"192.0.2.1:1000", "198.51.100.2:5432", "192.0.2.1:1000", "198.51.100.2:5432"},
		{"[2001:db8::1]:1", "[2001:db8::2]:65535", "[2001:db8::1]:1", "[2001:db8::2]:65535"},
		{"[::ffff:192.0.2.1]:1", "198.51.100.2:2", "192.0.2.1:1", "198.51.100.2:2"},
		{"192.0.2.1:1", "[2001:db8::2]:2", "[::ffff:192.0.2.1]:1", "[2001:db8::2]:2"},
	} {
		long := strings.Repeat("x", 70_000)
		b := appendProxyHeader(nil, netip.MustParseAddrPort(test.src), netip.MustParseAddrPort(test.dst),
			tlv{tlvSession, "s"}, tlv{tlvSubject, long})
		src, dst, tlvs := parseProxyHeader(t, strings.NewReader(string(b)))
		if src.String() != test.wantSrc || dst.String() != test.wantDst {
			t.Errorf("%s -> %s became %s -> %s", test.src, test.dst, src, dst)
		}
		if tlvs[tlvSession] != "s" || tlvs[tlvSubject] != long[:maxTLV] {
			t.Errorf("TLVs %d", len(tlvs))
		}
	}
}

// TestProxyProtocol: the upstream learns who is there before the first byte of payload.
func TestProxyProtocol(t *testing.T) {
	type seen struct {
		src  netip.AddrPort
		tlvs map[byte]string
	}
	got := make(chan seen, 1)
	r := echoRig(t, func(_ *rig, c *Config) {
		c.Services[0].Upstream = Upstream{ProxyProtocol: true, Address: upstream(t, func(c *net.TCPConn) {
			src, _, tlvs := parseProxyHeader(t, c)
			got <- seen{src, tlvs}
			echo(c)
		})}
	})
	c := r.dial("db")
	roundTrip(t, c)
	s := <-got
	if s.src.String() != c.LocalAddr().String() {
		t.Errorf("source %s, want %s", s.src, c.LocalAddr())
	}
	id := r.sess.ID.String()
	if s.tlvs[tlvSession] != id || s.tlvs[tlvIssuer] != "test" || s.tlvs[tlvSubject] != "alice" ||
		!strings.HasPrefix(s.tlvs[tlvUniqueID], id+".") || len(s.tlvs[tlvUniqueID]) > maxUniqueID {
		t.Errorf("TLVs %q", s.tlvs)
	}
}
