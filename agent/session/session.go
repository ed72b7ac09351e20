// SPDX-License-Identifier: Apache-2.0

package session

import (
	"net/netip"
	"time"
)

// Values of Session.Method.
const (
	MethodBrowser = "browser"
	MethodDevice  = "device"  // by a code that is entered elsewhere
	MethodToken   = "token"   // a machine, by a token of its platform's
	MethodControl = "control" // by an operator; also the issuer of such an identity
)

// Session is one sign-in of one identity, bound to one client key.
//
// Everything but Ended, Published and LastActive is immutable after creation; deadlines only ever get
// earlier. Values are copied out of the Table, never shared with it; the slices within are
// not changed by anyone.
type Session struct {
	ID       ID       `json:"id"`
	Identity Identity `json:"identity"`
	Key      Key      `json:"key"`
	// Method is how the user signed in: one of the constants.
	Method  string    `json:"method"`
	Created time.Time `json:"created"`
	// Deadline is the absolute end as wall time, for people; Until is what counts.
	Deadline time.Time `json:"deadline"`
	// IdleTimeout ends the session that long after the last activity; zero means never.
	IdleTimeout time.Duration `json:"idle_timeout,omitzero"`
	// BindAddrs are source addresses admitted to plain listeners without a client key.
	BindAddrs []netip.Addr `json:"bind_addrs,omitempty"`

	// What nodes of a cluster have in common, in readings of Origin's clock: see Record. Ends is Until
	// there; Published is the latest activity that all were told of, zero for none.
	Origin     Origin     `json:"origin,omitzero"`
	Born       OriginTime `json:"born,omitzero"`
	Ends       OriginTime `json:"ends,omitzero"`
	Published  OriginTime `json:"published,omitzero"`
	Supersedes ID         `json:"supersedes,omitzero"` // the session whose connections this one took over
	SID        string     `json:"sid,omitempty"`       // the provider's own session that this one is part of
	Credential Credential `json:"credential,omitzero"` // what it was created with, if that serves one key only
	Generation uint32     `json:"generation,omitzero"` // how many sessions it took over from, one after the other
	Extra      []byte     `json:"extra,omitempty"`
	// Validated is when the provider last confirmed the identity; zero: it is not asked.
	Validated OriginTime `json:"validated,omitzero"`

	// Until is the absolute end on this host's CLOCK_BOOTTIME. IdleUntil is the end of the idle
	// lease with its grace, or zero. LastActive is the last activity known.
	Until      Instant `json:"-"`
	IdleUntil  Instant `json:"-"`
	LastActive Instant `json:"-"`

	// Ended is nil while the session lives.
	Ended *End `json:"ended,omitempty"`
}

// End says how a session ended. Immutable.
type End struct {
	Reason  Reason    `json:"reason"`
	By      string    `json:"by,omitempty"`      // who: "root@control", an issuer, empty for a timer
	Message string    `json:"message,omitempty"` // free text of an operator's --reason
	At      time.Time `json:"at"`
}

// EndsAt is the instant the session ends if nothing else happens: the earlier of the
// absolute end and the end of the idle lease.
func (s *Session) EndsAt() Instant { return Earliest(s.Until, s.IdleUntil) }
