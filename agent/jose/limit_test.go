// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"net/netip"
	"testing"
	"time"
)

func TestFailureLimit(t *testing.T) {
	var l FailureLimit
	now := time.Now()
	bad, good := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	tried := 0
	for ; tried < 10*failureBurst && l.Admit(bad, now); tried++ {
		l.Failed(bad, now)
	}
	if tried != failureBurst {
		t.Errorf("%d tries, want %d", tried, failureBurst)
	}
	if !l.Admit(good, now) {
		t.Error("another source has to suffer")
	}
	if now = now.Add(failureInterval); !l.Admit(bad, now) {
		t.Error("it is never let in again")
	}
	if l.Failed(bad, now); l.Admit(bad, now) {
		t.Error("it is let in as if nothing had happened")
	}
}

// TestFailureLimitIsBounded: whoever has many addresses must not fill the memory.
func TestFailureLimitIsBounded(t *testing.T) {
	var l FailureLimit
	now := time.Now()
	for i := range 3 * failureSources {
		l.Failed(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if len(l.debts) > failureSources {
		t.Errorf("%d sources are remembered", len(l.debts))
	}
}

func TestSourceOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := SourceOf(netip.MustParseAddr(in)); got.String() != want {
			t.Errorf("SourceOf(%s) = %s, want %s", in, got, want)
		}
	}
	if got := SourceOf(netip.Addr{}); got != (netip.Prefix{}) {
		t.Errorf("SourceOf(nothing) = %s", got)
	}
}
