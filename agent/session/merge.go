// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"time"
)

// conflicted is how a session ends of which two nodes say different things that never change: a bug, or an
// attack. It wins over every other end, so that it does not matter when the conflict is noticed.
var conflicted = End{Reason: ReasonConflict, By: "merge"}

// Merge returns what follows from two records of the same session. It is commutative, associative and
// idempotent, so that it does not matter in which order, how often and by which way records come; and
// what has ended stays so: the deadline is never later, and an end never goes away. (Two records that describe the user
// in different ways as of the same validation contradict each other only where they meet; the end goes everywhere then.)
//
// The order in which it prefers one of two ends or of two sets of immutable fields means nothing; it
// only has to be the same everywhere.
func Merge(a, b Record) Record {
	if a.ID != b.ID {
		panic("merge of two sessions") // a bug of the caller: nothing that comes from outside gets here
	}
	out, conflict := mergeImmutable(a, b)
	out.Deadline = earlierTime(a.Deadline, b.Deadline)
	out.Active = max(a.Active, b.Active)
	out.Revoked = firstEnd(a.Revoked, b.Revoked)
	if conflict {
		out.Revoked = firstEnd(out.Revoked, &conflicted)
	}
	out.Extra = longer(a.Extra, b.Extra)
	return out
}

// Tombstone reports whether r is word of an end that came before word of the session.
func (r *Record) Tombstone() bool { return r.Key.IsZero() }

// mergeImmutable takes the fields that never change from the record that has them, and reports
// whether the records contradict each other.
func mergeImmutable(a, b Record) (out Record, conflict bool) {
	if a.Tombstone() != b.Tombstone() { // one says more; they share the origin
		if a.Tombstone() {
			a, b = b, a
		}
		return a, b.Origin != a.Origin
	}
	supersedes := a.Supersedes
	if bytes.Compare(b.Supersedes[:], supersedes[:]) > 0 {
		supersedes = b.Supersedes
	}
	if a.Tombstone() { // of another version one may say less than the other: that is no contradiction
		a.Supersedes, b.Supersedes = supersedes, supersedes
	}
	c := bytes.Compare(a.immutable(), b.immutable())
	if c > 0 {
		a, b = b, a
	}
	d := cmp.Or(cmp.Compare(a.Validated, b.Validated), bytes.Compare(a.description(), b.description()))
	conflict = c != 0 || d != 0 && a.Validated == b.Validated
	if d < 0 {
		who := a.Identity
		a.Identity, a.Validated = b.Identity, b.Validated
		a.Identity.Issuer, a.Identity.Subject = who.Issuer, who.Subject
	}
	return a, conflict
}

// description is a canonical encoding of what may be said anew of the user.
func (r *Record) description() []byte {
	i := &r.Identity
	b := appendFields(nil, i.Name, i.Email, i.ACR)
	b = appendFields(b, i.Groups...)
	b = appendFields(b, i.AMR...)
	return binary.BigEndian.AppendUint64(b, uint64(unixNano(i.AuthTime)))
}

func appendFields(b []byte, list ...string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

// immutable is a canonical encoding of the fields that never change.
func (r *Record) immutable() []byte {
	b := appendFields(nil, r.Origin.Node, r.Identity.Issuer, r.Identity.Subject, r.Method, r.SID)
	b = binary.BigEndian.AppendUint64(b, r.Origin.Boot)
	b = append(b, r.Key[:]...)
	b = append(b, r.Credential[:]...)
	b = append(b, r.Supersedes[:]...)
	b = binary.BigEndian.AppendUint32(b, r.Generation)
	for _, t := range []int64{unixNano(r.Created), int64(r.IdleTimeout), int64(r.Born)} {
		b = binary.BigEndian.AppendUint64(b, uint64(t))
	}
	for _, a := range r.BindAddrs {
		b = appendFields(b, a.String())
	}
	return b
}

// earlierTime is the earlier of two instants of which zero means "not said".
func earlierTime(a, b OriginTime) OriginTime {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func firstEnd(a, b *End) *End {
	switch {
	case a == nil:
		return b
	case b == nil || compareEnds(a, b) <= 0:
		return a
	}
	return b
}

func compareEnds(a, b *End) int {
	return cmp.Or(
		-compareBool(a.Reason == ReasonConflict, b.Reason == ReasonConflict),
		cmp.Compare(unixNano(a.At), unixNano(b.At)),
		cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.By, b.By), cmp.Compare(a.Message, b.Message),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// unixNano is t in nanoseconds since 1970; zero for the zero Time.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func longer(a, b []byte) []byte {
	if cmp.Or(cmp.Compare(len(a), len(b)), slices.Compare(a, b)) < 0 {
		return b
	}
	return a
}

// hash is of what merges, and of what is passed on; zero for no record only.
func (r *Record) hash() uint64 {
	h := fnv.New64a()
	var b []byte
	b = append(b, r.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Deadline))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Active))
	if !r.Tombstone() {
		b = binary.BigEndian.AppendUint64(append(b, r.description()...), uint64(r.Validated))
	}
	if e := r.Revoked; e != nil {
		b = binary.BigEndian.AppendUint64(b, uint64(unixNano(e.At)))
		b = append(append(b, e.Reason...), e.By...)
		b = append(b, e.Message...)
	}
	if len(r.Extra) > 0 {
		b = binary.BigEndian.AppendUint64(append(b, r.Extra...), uint64(len(r.Extra)))
	}
	if r.Tombstone() {
		b = append(b, 0)
	}
	_, _ = h.Write(b) // a hash takes everything
	return max(h.Sum64(), 1)
}
