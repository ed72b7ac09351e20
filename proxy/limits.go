// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"
	"sync"
	"time"
)

// Limits bound what clients that proved nothing yet can make the proxy hold. Zero fields take
// the defaults named.
type Limits struct {
	// Handshake is the time from accept to a proven client key, however slowly bytes come. 10 s.
	Handshake time.Duration
	// Unauthenticated bounds the connections in that state, in all. 1,024.
	Unauthenticated int
	// UnauthenticatedPerSource bounds them for one IPv4 address or IPv6 /64. 64.
	UnauthenticatedPerSource int
}

func (l *Limits) setDefaults() {
	if l.Handshake == 0 {
		l.Handshake = 10 * time.Second
	}
	if l.Unauthenticated == 0 {
		l.Unauthenticated = 1024
	}
	if l.UnauthenticatedPerSource == 0 {
		l.UnauthenticatedPerSource = 64
	}
}

// strays counts the connections that have not authenticated yet.
type strays struct {
	max, maxPerSource int

	mu       sync.Mutex
	total    int
	bySource map[netip.Prefix]int
}

func newStrays(max, maxPerSource int) *strays {
	return &strays{max: max, maxPerSource: maxPerSource, bySource: make(map[netip.Prefix]int)}
}

// sourceOf is what one client can have many addresses within: an IPv6 host owns a /64.
func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	prefix, _ := a.Prefix(bits) // fails only for the zero Addr, which then is its own source
	return prefix
}

// take counts a connection from a; on false a limit is reached and nothing is counted.
func (s *strays) take(a netip.Addr) bool {
	source := sourceOf(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.max || s.bySource[source] >= s.maxPerSource {
		return false
	}
	s.total++
	s.bySource[source]++
	return true
}

// give undoes one successful take.
func (s *strays) give(a netip.Addr) {
	source := sourceOf(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.bySource[source]--; s.bySource[source] == 0 {
		delete(s.bySource, source)
	}
}
