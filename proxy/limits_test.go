// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"
	"testing"
)

func TestSourceOf(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:1", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
	} {
		a, b := sourceOf(netip.MustParseAddr(test.a)), sourceOf(netip.MustParseAddr(test.b))
		if (a == b) != test.same || !a.IsValid() {
			t.Errorf("%s is %s, %s is %s", test.a, a, test.b, b)
		}
	}
	s := newStrays(2, 2)
	a := netip.MustParseAddr("192.0.2.1")
	for i, want := range []bool{true, true, false} {
		if s.take(a) != want {
			t.Errorf("take %d: not %v", i, want)
		}
	}
	if s.take(netip.MustParseAddr("192.0.2.9")) {
		t.Error("the limit in all does not hold")
	}
	s.give(a)
	s.give(a)
	if s.total != 0 || len(s.bySource) != 0 {
		t.Errorf("left over: %d, %v", s.total, s.bySource)
	}
}
