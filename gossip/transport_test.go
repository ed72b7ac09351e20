// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"net/netip"
	"testing"
)

func FuzzCutHead(f *testing.F) {
	for _, s := range []string{"10.0.0.1:1", "[fd00::1]:65535", "[fe80::1%eth0]:7", "0.0.0.0:1", "10.0.0.1:0"} {
		f.Add(append(appendHead(nil, head{netip.MustParseAddrPort(s), s[0] == '['}), "rest"...))
	}
	f.Add([]byte{})
	f.Add([]byte{255, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		h, rest, err := cutHead(in)
		if err != nil {
			return
		}
		if again, tail, err := cutHead(append(appendHead(nil, h), rest...)); err != nil || again != h || string(tail) != string(rest) {
			t.Errorf("%v, %q, %v became %v, %q", h, rest, err, again, tail)
		}
		if checkAddr(h.addr) != nil {
			t.Errorf("%v was taken", h)
		}
	})
}
