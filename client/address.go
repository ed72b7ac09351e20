// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// DefaultPort is where agents are looked for if an address names no port.
const DefaultPort = "8443"

// Address is the host and port of an agent. The zero value names none.
type Address struct{ host, port string }

// ParseAddress reads "host", "host:port", "[v6]:port" or "https://host:port/".
func ParseAddress(s string) (Address, error) {
	bad := fmt.Errorf("agent address %q: want HOST, HOST:PORT or https://HOST:PORT", s)
	if !strings.Contains(s, "://") {
		if strings.Count(s, ":") > 1 && !strings.HasPrefix(s, "[") { // a bare IPv6 address
			s = "[" + s + "]"
		}
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return Address{}, bad
	}
	a := Address{host: strings.ToLower(u.Hostname()), port: u.Port()}
	if a.port == "" {
		a.port = DefaultPort
	}
	if n, err := strconv.ParseUint(a.port, 10, 16); err != nil || n == 0 {
		return Address{}, bad
	}
	return a, nil
}

// Host returns the host alone, for certificates to be checked against.
func (a Address) Host() string { return a.host }

// String returns host:port.
func (a Address) String() string { return net.JoinHostPort(a.host, a.port) }

// IsZero reports whether a names no agent.
func (a Address) IsZero() bool { return a == Address{} }

// MarshalText makes an Address a JSON string.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Address) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAddress(string(b))
	return err
}

// dirName returns host_port without what some file system would not take in a name.
func (a Address) dirName() string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		}
		return '+'
	}, a.host+"_"+a.port)
}
