// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/config"
)

// Whoever shares an address shares the session that is bound to it: off unless the operator says otherwise, and
// for addresses of the Internet unless he says so twice.
func TestBindingAnAddressIsRefused(t *testing.T) {
	off, on, public := config.BindAddress{}, config.BindAddress{Enabled: true}, config.BindAddress{Enabled: true, AllowPublic: true}
	for _, tc := range []struct {
		addr string
		c    config.BindAddress
		ok   bool
	}{
		{"10.1.2.3", off, false},
		{"127.0.0.1", off, false},
		{"10.1.2.3", config.BindAddress{AllowPublic: true}, false},
		{"10.1.2.3", on, true},
		{"192.168.0.9", on, true},
		{"127.0.0.1", on, true},
		{"::1", on, true},
		{"fd00::7", on, true},
		{"fe80::7", on, true},
		{"8.8.8.8", on, false},
		{"::ffff:8.8.8.8", on, false},
		{"2001:4860::8888", on, false},
		{"100.64.0.1", on, false}, // shared by a provider's customers (RFC 6598)
		{"8.8.8.8", public, true},
		{"2001:4860::8888", public, true},
	} {
		for _, addrs := range [][]netip.Addr{{netip.MustParseAddr(tc.addr)}, {netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr(tc.addr)}} {
			err := checkBindAddrs(addrs, tc.c)
			var e *api.Error
			if (err == nil) != tc.ok || err != nil && (!errors.As(err, &e) || e.Code != api.CodeForbidden || e.Hint == "") {
				t.Errorf("%v with %+v: %v", addrs, tc.c, err)
			}
		}
	}
	if err := checkBindAddrs(nil, off); err != nil {
		t.Errorf("nothing to bind: %v", err)
	}
}
