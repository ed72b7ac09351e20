// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
)

// redirect is where a sign-in ends: the loopback listener of the client that began it.
type redirect struct {
	addr  netip.AddrPort
	path  string
	state string // the client's own
}

var (
	errRedirectForm = errors.New("redirect: want http://127.0.0.1:PORT/PATH or http://[::1]:PORT/PATH (RFC 8252, section 7.3)")
	errStateForm    = errors.New("state: want 8 to 128 characters of A-Z, a-z, 0-9, - and _")

	redirectPath = regexp.MustCompile(`^/[A-Za-z0-9_-]{0,64}$`)
	clientState  = regexp.MustCompile(`^[A-Za-z0-9_-]{8,128}$`)
)

// parseRedirect admits loopback IP literals only. That is what makes a sign-in link worthless to
// whoever sends it to somebody else: the one-time code goes to the machine of the browser. A
// name like "localhost" might resolve to elsewhere (RFC 8252, section 8.3).
func parseRedirect(raw, state string) (redirect, error) {
	if !clientState.MatchString(state) {
		return redirect{}, errStateForm
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return redirect{}, errRedirectForm
	}
	addr, err := netip.ParseAddrPort(u.Host)
	loopback4, loopback6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	if err != nil || addr.Port() == 0 || addr.Addr() != loopback4 && addr.Addr() != loopback6 {
		return redirect{}, errRedirectForm
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	if !redirectPath.MatchString(path) {
		return redirect{}, errRedirectForm
	}
	return redirect{addr: addr, path: path, state: state}, nil
}

// withCode returns the URL that hands the one-time code to the client.
func (r redirect) withCode(code string) string { return r.with(url.Values{"code": {code}}) }

// withError returns the URL that tells the client that nothing comes of it.
func (r redirect) withError(code, message string) string {
	return r.with(url.Values{"error": {code}, "error_description": {message}})
}

func (r redirect) with(query url.Values) string {
	query.Set("state", r.state)
	u := url.URL{Scheme: "http", Host: r.addr.String(), Path: r.path, RawQuery: query.Encode()}
	return u.String()
}
