// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"net/netip"
	"sync"
	"time"
)

// How many tokens that are refused one source may present.
const (
	failureBurst    = 60
	failureInterval = time.Second // gives one of the burst back
	failureSources  = 4096        // remembered
)

// FailureLimit bounds how many tokens one source may have refused, so that nobody tries many. Those that are
// accepted cost nothing. The zero value is ready; it is safe for concurrent use.
type FailureLimit struct {
	mu    sync.Mutex
	debts map[netip.Prefix]debt
}

// debt is how much of its burst a source has used up at an instant.
type debt struct {
	failures float64
	at       time.Time
}

// Admit reports whether source may present a token now.
func (l *FailureLimit) Admit(source netip.Addr, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.debts[SourceOf(source)].left(now) <= failureBurst-1
}

// Failed notes that a token from source was refused.
func (l *FailureLimit) Failed(source netip.Addr, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := SourceOf(source)
	if _, known := l.debts[p]; !known && len(l.debts) >= failureSources {
		l.forgetLocked(now)
	}
	if l.debts == nil {
		l.debts = map[netip.Prefix]debt{}
	}
	l.debts[p] = debt{failures: l.debts[p].left(now) + 1, at: now}
}

// Forgive takes back that one was refused.
func (l *FailureLimit) Forgive(source netip.Addr, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := SourceOf(source)
	if d, known := l.debts[p]; known {
		l.debts[p] = debt{failures: max(0, d.left(now)-1), at: now}
	}
}

// forgetLocked makes room: of a few sources, in Go's random order, it drops those that owe nothing any more, or
// any one if there are none.
func (l *FailureLimit) forgetLocked(now time.Time) {
	var victim netip.Prefix
	looked := 0
	for p, d := range l.debts {
		if d.left(now) == 0 {
			delete(l.debts, p)
		}
		if victim, looked = p, looked+1; looked == 16 {
			break
		}
	}
	if len(l.debts) >= failureSources {
		delete(l.debts, victim)
	}
}

// left is what remains of a debt.
func (d debt) left(now time.Time) float64 {
	paid := max(0, now.Sub(d.at)).Seconds() / failureInterval.Seconds()
	return max(0, d.failures-paid)
}

// SourceOf returns what strangers are counted by: an IPv4 address, or the /64 that an IPv6 user
// can fill at will. All addresses that are not valid count as one.
func SourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // the zero Addr gives the zero Prefix, which counts as one source
	return p
}
