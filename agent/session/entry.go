// SPDX-License-Identifier: Apache-2.0

package session

import (
	"container/heap"
	"net/netip"
	"time"
)

// entry is the table's own, compact form of a session. Guarded by Table.mu.
//
//	live --(deadline, idle, kill, logout, ...)--> ended --(retention passed)--> forgotten
//
// There is no way back: nothing clears ended.
type entry struct {
	id        ID
	key       Key
	identity  *person // immutable
	method    string
	created   int64 // wall clock, nanoseconds since 1970
	deadline  int64
	idle      time.Duration
	bindAddrs []netip.Addr

	until, idleUntil, lastActive Instant

	number uint64               // names the session in the kernel; never reused
	ended  *End                 // nil while it lives
	conns  map[*Connection]bool // nil while there are none

	check Instant // when the loop looks at this entry next
	index int     // in Table.queue
}

func (e *entry) session() Session {
	return Session{
		ID: e.id, Identity: e.identity.Identity, Key: e.key, Method: e.method,
		Created: time.Unix(0, e.created), Deadline: time.Unix(0, e.deadline), IdleTimeout: e.idle, BindAddrs: e.bindAddrs,
		Until: e.until, IdleUntil: e.idleUntil, LastActive: e.lastActive, Ended: e.ended,
	}
}

func (e *entry) endsAt() Instant { return Earliest(e.until, e.idleUntil) }

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

// nextCheck is when the entry has to be looked at again, seen from now: at the start of the last
// quarter of the idle timeout if there are connections whose activity is not known yet, and
// at the end.
func (e *entry) nextCheck(now Instant) Instant {
	ends := e.endsAt()
	if e.idleUntil == 0 || len(e.conns) == 0 {
		return ends
	}
	quarter := e.idleUntil.Add(-e.idle / 4)
	if now < quarter {
		return Earliest(ends, quarter)
	}
	return ends
}

// touch moves the idle lease to at + idle, never back. It reports whether the end moved.
func (e *entry) touch(at Instant) bool {
	if e.idle == 0 || at <= e.lastActive {
		return false
	}
	before := e.endsAt()
	e.lastActive = at
	e.idleUntil = at.Add(e.idle)
	return e.endsAt() != before
}

// queue is a heap of entries by check.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].check < q[j].check }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.index = len(*q)
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
	heap.Fix(q, e.index)
}
