// SPDX-License-Identifier: Apache-2.0

package session

import (
	"net/netip"
	"time"
)

// Origin names a clock: CLOCK_BOOTTIME in one boot of one node. What nodes tell each other of a
// session is told in readings of the clock of the node that created it, so that it means the same
// wherever it is read and by whichever way it came; wall clocks have no say.
type Origin struct {
	Node string // its name in the cluster; empty: a node that is in none
	Boot uint64 // names the boot; nothing else is to be read from it
}

// OriginTime is a reading of an Origin's clock, in nanoseconds. Zero means "none".
type OriginTime int64

// Timebase translates between the clock of this host and those of others. It is safe for concurrent
// use, answers at once, and has no lock that is held during a call into a Table.
type Timebase interface {
	// Self is the clock of this host, in this boot.
	Self() Origin
	// Local returns what the clock of this host reads when o's clock reads t; false if o's clock was
	// never compared with this one, not even through others.
	Local(o Origin, t OriginTime) (Instant, bool)
	// Remote is the inverse of Local.
	Remote(o Origin, t Instant) (OriginTime, bool)
}

// Record is what nodes know of a session in common. Records of the same session merge: see Merge.
//
//	id, key, identity, ...   immutable
//	deadline                 the earlier
//	active                   the later
//	identity, validated      what was validated later; issuer and subject never change
//	revoked                  once is for ever
//
// A Record without a key is a tombstone: word of the end of a session that came before word of the
// session.
type Record struct {
	ID ID

	// Immutable; empty in a tombstone, but for Origin and Supersedes.
	Key         Key
	Identity    Identity
	Method      string
	Created     time.Time // by the wall clock of Origin's node: for people
	IdleTimeout time.Duration
	BindAddrs   []netip.Addr
	SID         string // the provider's own session, of which this one is part (OpenID Connect Core: sid); may be empty
	Credential  Credential
	Supersedes  ID     // the session whose connections this one takes over; zero: none
	Generation  uint32 // how many sessions come before it, each of which the next took over from
	Origin      Origin
	Born        OriginTime

	// Validated is when the provider last confirmed Identity, of which all but Issuer and Subject may change then; zero:
	// it is not asked.
	Validated OriginTime

	Deadline OriginTime
	Active   OriginTime // the latest activity that was published; zero: none since Born
	Revoked  *End       // nil while nobody has ended it; a deadline that passed is no revocation

	// Extra has encoded fields that this version does not know; they are passed on as they are.
	Extra []byte
}

// Watermark ends every session of a subject, or of everyone, that was born before an instant, or every one that
// a provider's own session began, whenever it is born; also those that nobody here has heard of yet. Watermarks
// that say the same of whom, by the same Origin, merge: the later wins, also in what Fresh says; those with Fresh among
// themselves, and those without.
type Watermark struct {
	Issuer, Subject string // both empty: everyone; Issuer alone empty: this subject of any issuer
	SID             string // the session of Issuer's, instead of Subject; or UnnamedSID, with Subject
	Origin          Origin // whose clock Before is read from
	Before          OriginTime
	Keep            time.Duration // after Before it is forgotten; zero: MaxLifetime, which no session outlives
	End             End           // what its sessions ended for
	// Fresh, if it is not zero, is when its users had to be authenticated, or later, for a session of theirs to live, also one that is
	// born after Before: in seconds since 1970, as claims have it. See Session.stale.
	Fresh int64 `json:",omitzero"`
	// Learned is when this host first heard of it, which was after Before; kept by Table and Store.
	Learned Instant `json:"-"`
}

// UnnamedSID is, in a watermark, for the sessions of a subject of which the provider did not say which of its own they are
// part of. No provider's session is called so: it is not printable.
const UnnamedSID = "\x01"

// Summary tells whether two nodes know the same of a session.
type Summary struct {
	ID   ID
	Hash uint64 // of what merges: deadline, active, revoked
}
