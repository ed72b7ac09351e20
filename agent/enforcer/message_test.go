// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"bytes"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
)

func sampleMessages() []message {
	s := session.Socket{
		Tuple:  session.Tuple{Local: netip.MustParseAddrPort("127.0.0.1:5432"), Remote: netip.MustParseAddrPort("[2001:db8::1]:40000")},
		Cookie: 1 << 40, Leg: session.UpstreamLeg,
	}
	return []message{
		{typ: typeReady}, {typ: typeHeartbeat}, {typ: typeSweep}, {typ: typeGoodbye}, {typ: typeDrain}, {typ: typeReload},
		{typ: typeStatus, status: "serving 12 connections"},
		{typ: typeKill, seq: 7, number: 1 << 60, more: true, sockets: []session.Socket{s, s}},
		{typ: typeKilled, seq: 7, number: 3, duration: time.Second, outcomes: []bpf.Outcome{bpf.Destroyed, bpf.Failed}},
		{typ: typeStats, stats: Stats{Sweeps: 1, Swept: 2, Missed: 1 << 63}},
	}
}

func TestMessageRoundTrip(t *testing.T) {
	for _, want := range sampleMessages() {
		var got message
		if err := got.decode(want.append(nil)); err != nil {
			t.Errorf("%+v: %v", want, err)
		}
		if len(got.sockets) == 0 {
			got.sockets = nil
		}
		if len(got.outcomes) == 0 {
			got.outcomes = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("have %+v, want %+v", got, want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	kill := sampleMessages()[7].append(nil)
	killed := sampleMessages()[8].append(nil)
	status := sampleMessages()[6].append(nil)
	spoil := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	for what, b := range map[string][]byte{
		"empty":                 {},
		"short header":          kill[:headerLen-1],
		"other version":         spoil(kill, 0, 2),
		"type 0":                spoil(kill, 1, 0),
		"unknown type":          spoil(kill, 1, byte(typeEnd)),
		"unknown flag":          spoil(kill, 2, 2),
		"reserved byte":         spoil(kill, 20, 1),
		"count too large":       spoil(kill, 16, 3),
		"count too small":       spoil(kill, 16, 1),
		"huge count":            spoil(kill, 19, 0x80),
		"no sockets":            spoil(kill, 16, 0)[:headerLen],
		"cut body":              kill[:len(kill)-1],
		"long body":             append(bytes.Clone(kill), 0),
		"socket without cookie": append(bytes.Clone(kill[:len(kill)-8]), make([]byte, 8)...),
		"socket padding":        spoil(kill, headerLen+37, 1),
		"unknown outcome":       spoil(killed, len(killed)-1, byte(bpf.Failed)+1),
		"negative duration":     spoil(killed, headerLen+7, 0x80),
		"newline in status":     spoil(status, headerLen, '\n'),
		"text after status":     spoil(status, len(status)-1, 'x'),
		"body on a heartbeat":   append((&message{typ: typeHeartbeat}).append(nil), 0),
	} {
		if err := new(message).decode(b); err == nil {
			t.Errorf("accepted: %s", what)
		}
	}
}

func FuzzMessage(f *testing.F) {
	for _, m := range sampleMessages() {
		f.Add(m.append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		if m.decode(b) != nil {
			return
		}
		if again := m.append(nil); !bytes.Equal(again, b) {
			t.Fatalf("decoded %x, encodes to %x", b, again)
		}
	})
}

func TestPrintable(t *testing.T) {
	if got := printable("a\nb\x80" + strings.Repeat("x", 200)); !strings.HasPrefix(got, "a?b?x") || len(got) != statusLen-1 {
		t.Errorf("%q", got)
	}
}
