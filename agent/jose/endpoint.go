// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"fmt"
	"net/netip"
	"net/url"
)

// CheckEndpoint admits https URLs, and plain http to this host only, where nobody listens in.
func CheckEndpoint(raw string) error {
	u, err := url.Parse(raw)
	shown := Printable(raw) // whoever sent it may have sent a lot
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a URL", shown)
	case u.Host == "" || u.User != nil || u.Fragment != "":
		return fmt.Errorf("%q is not an absolute URL without user and fragment", shown)
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("%q: want https (http only to loopback)", shown)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
