// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

const labelHint = "use up to 63 lower-case letters, digits and hyphens, a letter or digit at each end"

// isLabel reports whether s is a DNS label in lower case.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// isHostName reports whether s is a DNS name or an IP address.
func isHostName(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.ToLower(strings.TrimSuffix(s, ".")), ".") {
		if !isLabel(strings.ReplaceAll(label, "_", "-")) {
			return false
		}
	}
	return true
}

// checkUpstream checks a host:port to dial.
func (d *document) checkUpstream(key, upstream, protocol string) {
	if upstream == "" {
		return // reported as missing
	}
	host, port, err := net.SplitHostPort(upstream)
	if err != nil {
		hint := "for example 10.0.0.5:6379"
		if isHostName(upstream) {
			example := "6379"
			if protocol == ProtocolPostgres {
				example = "5432"
			}
			hint = fmt.Sprintf("the port is missing: %q?", net.JoinHostPort(upstream, example))
		}
		d.wrong(key, fmt.Sprintf("want host:port, have %q", upstream), hint)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		d.wrong(key, fmt.Sprintf("%q is not a port", port), "a number from 1 to 65535")
	}
	if !isHostName(host) {
		d.wrong(key, fmt.Sprintf("%q is not a host", host), "a name or an address of the upstream")
	}
}

// checkURL checks the gateway's URL: an https origin.
func (d *document) checkURL(key, text string) {
	if text == "" {
		return
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		d.wrong(key, fmt.Sprintf("%q is not a URL", text), "for example https://curfew.example.com:8443")
	case u.Scheme != "https" || !isHostName(u.Hostname()):
		d.wrong(key, fmt.Sprintf("want an https URL, have %q", text), "for example https://curfew.example.com:8443")
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		d.wrong(key, "the URL must end with the host and the port", "https://"+u.Host)
	}
}

// checkIssuer checks a provider's issuer: https, or http on this host (for trying things out).
func (d *document) checkIssuer(key, text string) {
	if u, err := url.Parse(text); err == nil && u.RawQuery != "" {
		d.wrong(key, fmt.Sprintf("%q is not an issuer", text), issuerHint)
		return
	}
	d.checkSource(key, text, "an issuer", issuerHint)
}

const issuerHint = "an https URL without query, exactly as the provider says it"

// checkSource checks a URL where something is fetched that decides who may sign in.
func (d *document) checkSource(key, text, what, hint string) {
	if text == "" {
		return
	}
	u, err := url.Parse(text)
	if err != nil || !isHostName(u.Hostname()) || u.Fragment != "" || u.User != nil {
		d.wrong(key, fmt.Sprintf("%q is not %s", text, what), hint)
		return
	}
	local := u.Hostname() == "localhost"
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		local = a.IsLoopback()
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && local) {
		d.wrong(key, fmt.Sprintf("%q is not safe: whoever is on the way could read and change what is said", text), "use https")
	}
}

// listener is an address that the configuration asks to listen on.
type listener struct {
	key, owner string
	addr       netip.AddrPort
}

func listeners(c *Config) []listener {
	var all []listener
	add := func(key, owner string, addrs []netip.AddrPort) {
		for i, a := range addrs {
			all = append(all, listener{fmt.Sprintf("%s[%d]", key, i), owner, a})
		}
	}
	add("listen", "the gateway", c.Listen)
	for i, s := range c.Services {
		key, owner := fmt.Sprintf("services[%d]", i), fmt.Sprintf("service %q", s.Name)
		add(key+".listen", owner, s.Listen)
		add(key+".plain_listen", owner, s.PlainListen)
	}
	if c.Metrics.IsValid() {
		all = append(all, listener{"metrics", "metrics", c.Metrics})
	}
	return all
}

// checkListeners notes addresses that are asked for twice.
func (d *document) checkListeners(c *Config) {
	byPort := map[uint16][]listener{}
	for _, l := range listeners(c) {
		if !l.addr.IsValid() || l.addr.Port() == 0 { // reported already; the kernel chooses
			continue
		}
		for _, other := range byPort[l.addr.Port()] {
			if overlap(l.addr.Addr().Unmap(), other.addr.Addr().Unmap()) {
				d.wrong(l.key, fmt.Sprintf("%s listens on %s, and so does %s", l.owner, l.addr, other.owner),
					d.takenHint(l, other))
				break
			}
		}
		byPort[l.addr.Port()] = append(byPort[l.addr.Port()], l)
	}
}

func (d *document) takenHint(l, other listener) string {
	if l.addr.Addr() != other.addr.Addr() {
		return fmt.Sprintf("%s covers it; choose another port", other.addr)
	}
	if line, _ := d.whereValue(other.key); line > 0 {
		return fmt.Sprintf("choose another port; the first is in line %d", line)
	}
	return "choose another port"
}

// overlap reports whether listening on both addresses at the same port is impossible. The
// IPv6 wildcard takes IPv4 too.
func overlap(a, b netip.Addr) bool {
	wild := func(w, x netip.Addr) bool { return w.IsUnspecified() && (w.Is6() || x.Is4()) }
	return a == b || wild(a, b) || wild(b, a)
}
