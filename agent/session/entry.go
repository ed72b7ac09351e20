// SPDX-License-Identifier: Apache-2.0

package session

import (
	"container/heap"
	"net/netip"
	"time"
	"unique"
)

// entry is the table's own, compact form of a session. Guarded by Table.mu.
//
//	live --(deadline, idle, kill, logout, ...)--> ended --(retention passed)--> forgotten
//
// There is no way back: nothing clears ended.
type entry struct {
	id       ID
	key      Key     // zero: a tombstone, of which only the end is known
	identity *person // immutable
	made     unique.Handle[provenance]
	created  int64 // wall clock, nanoseconds since 1970
	deadline int64
	idle     time.Duration
	*details // never nil

	born            OriginTime
	ends, published OriginTime

	until, lastActive Instant
	bound             Instant // of until, less what clocks drift from boot on: see retimeLocked

	number uint64               // names the session in the kernel; never given out twice
	ended  *End                 // nil while it lives
	conns  map[*Connection]bool // nil while there are none

	next *entry // in the same leaf of Table.digest

	check   Instant // when the loop looks at this entry next
	index   int32   // in Table.queue
	untold  bool    // it was active here since what was published
	summed  bool    // in Table.digest
	unsaved bool    // what it says is not known to be durable: whoever is told that it is saves it first
}

// provenance is what sessions have in common that came about on one node in one way.
type provenance struct {
	origin Origin
	method string
}

func (e *entry) origin() Origin { return e.made.Value().origin }

// details is what many sessions do not have. Immutable: see setExtra and describeLocked.
type details struct {
	sid        string
	credential Credential
	validated  OriginTime
	*rare      // never nil
}

// rare is what few sessions have. Immutable.
type rare struct {
	bindAddrs  []netip.Addr
	supersedes ID
	generation uint32
	extra      []byte
}

// noDetails is shared by all sessions that have none.
var noDetails = &details{rare: &rare{}}

func newDetails(s *Session) *details {
	d := details{s.SID, s.Credential, s.Validated, noDetails.rare}
	if len(s.BindAddrs) > 0 || !s.Supersedes.IsZero() || s.Generation > 0 || len(s.Extra) > 0 {
		d.rare = &rare{s.BindAddrs, s.Supersedes, s.Generation, s.Extra}
	}
	if d == *noDetails {
		return noDetails
	}
	return &d
}

// setExtra replaces what is passed on without being known.
func (e *entry) setExtra(extra []byte) {
	if len(extra) == 0 && len(e.extra) == 0 {
		return
	}
	d, r := *e.details, *e.rare
	d.rare, r.extra = &r, extra
	e.details = &d
}

// idleUntil is when the session ends for idleness, with the grace that late word from other nodes has.
func (e *entry) idleUntil(grace time.Duration) Instant {
	if e.idle == 0 {
		return 0
	}
	return e.lastActive.Add(e.idle + grace)
}

func (e *entry) endsAt(grace time.Duration) Instant { return Earliest(e.until, e.idleUntil(grace)) }

func (e *entry) connections() []*Connection {
	if len(e.conns) == 0 {
		return nil
	}
	list := make([]*Connection, 0, len(e.conns))
	for c := range e.conns {
		list = append(list, c)
	}
	return list
}

// touch moves the idle lease to at + idle, never back, for activity on this host. It reports whether the
// lease moved.
func (e *entry) touch(at Instant) bool {
	moved := e.hear(at)
	e.untold = e.untold || moved
	return moved
}

// hear is touch for activity that was published.
func (e *entry) hear(at Instant) bool {
	if e.idle == 0 || at <= e.lastActive {
		return false
	}
	e.lastActive, e.untold = at, false
	return true
}

// session and record are the entry in the forms that leave the table.
func (t *Table) sessionLocked(e *entry) Session {
	s := Session{
		ID: e.id, Key: e.key, Method: e.made.Value().method, Created: time.Unix(0, e.created), Deadline: time.Unix(0, e.deadline),
		IdleTimeout: e.idle, Origin: e.origin(), Born: e.born, Ends: e.ends, Published: e.published,
		Until: e.until, IdleUntil: e.idleUntil(t.grace), LastActive: e.lastActive, Ended: e.ended,
		SID: e.sid, Credential: e.credential, Validated: e.validated,
		BindAddrs: e.bindAddrs, Supersedes: e.supersedes, Generation: e.generation, Extra: e.extra,
	}
	if e.identity != nil {
		s.Identity = e.identity.Identity
	}
	return s
}

// queue is a heap of entries by check.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].check < q[j].check }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = int32(i), int32(j)
}
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.index = int32(len(*q))
	*q = append(*q, e)
}
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return e
}

func (q *queue) reschedule(e *entry, at Instant) {
	e.check = at
	heap.Fix(q, int(e.index))
}
