// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bpf

import (
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"github.com/curfew-proxy/curfew/agent/session"
)

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

var bytesReceivedField = regexp.MustCompile(`bytes_received:(\d+)`)

// bytesReceived asks the kernel, through ss, how much payload a socket has taken in.
func bytesReceived(t testing.TB, s session.Socket) uint64 {
	t.Helper()
	out, err := exec.Command("ss", "-tinH", "src", s.Tuple.Local.String(), "dst", s.Tuple.Remote.String()).CombinedOutput()
	if err != nil {
		t.Fatalf("ss: %v: %s", err, out)
	}
	m := bytesReceivedField.FindSubmatch(out)
	if m == nil {
		return 0 // ss leaves the field out
	}
	n, err := strconv.ParseUint(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
