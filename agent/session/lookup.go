// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
)

// ByKey returns the live session of a client key. Returns ErrUnknownKey, or an *EndedError if the
// key's session is over. An instant that has passed counts as ended, whatever the timers do.
func (t *Table) ByKey(k Key) (Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byKey[k]
	if e == nil {
		return Session{}, ErrUnknownKey
	}
	return t.aliveLocked(e)
}

// ByID returns the live session of this id. Returns ErrNotFound, or an *EndedError.
func (t *Table) ByID(id ID) (Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byID[id]
	if e == nil {
		return Session{}, ErrNotFound
	}
	return t.aliveLocked(e)
}

// ByAddr returns the live session that the source address is bound to; the newest if there are
// several. Returns ErrUnknownKey if there is none.
func (t *Table) ByAddr(a netip.Addr) (Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var newest *entry
	for e := range t.byAddr[a.Unmap()] {
		if newest == nil || e.created > newest.created {
			newest = e
		}
	}
	if newest == nil {
		return Session{}, ErrUnknownKey
	}
	return t.aliveLocked(newest)
}

func (t *Table) aliveLocked(e *entry) (Session, error) {
	if e.ended != nil {
		return t.sessionLocked(e), &EndedError{ID: e.id, End: *e.ended}
	}
	if now := t.cfg.Clock.Boot(); now >= e.endsAt(0) {
		return t.sessionLocked(e), &EndedError{ID: e.id, End: t.timeoutEndLocked(e, now)}
	}
	return t.sessionLocked(e), nil
}

// Get returns the session with this text id, or with a unique prefix of it of at least four
// characters, live or ended. Returns ErrNotFound.
func (t *Table) Get(prefix string) (Session, []*Connection, error) {
	prefix = strings.ToLower(prefix)
	if len(prefix) < 4 {
		return Session{}, nil, fmt.Errorf("session %q: %w: give at least four characters", prefix, ErrNotFound)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var found *entry
	for e := range t.withPrefixLocked(prefix) {
		if found != nil {
			return Session{}, nil, fmt.Errorf("session %q: %w: several begin so, give more of it", prefix, ErrNotFound)
		}
		found = e
	}
	if found == nil {
		return Session{}, nil, fmt.Errorf("session %q: %w", prefix, ErrNotFound)
	}
	return t.sessionLocked(found), found.connections(), nil
}

// Entry is a session and the connections it has now.
type Entry struct {
	Session Session
	Conns   []*Connection
}

// withPrefixLocked returns the entries whose id begins so; it looks at one alone if the prefix is a whole id.
func (t *Table) withPrefixLocked(prefix string) iter.Seq[*entry] {
	if id, err := ParseID(prefix); err == nil && id.String() == prefix {
		return func(yield func(*entry) bool) {
			if e := t.byID[id]; e != nil {
				yield(e)
			}
		}
	}
	return func(yield func(*entry) bool) {
		for id, e := range t.byID {
			if strings.HasPrefix(id.String(), prefix) && !yield(e) {
				return
			}
		}
	}
}

// Select returns the sessions that match, by creation; live ones only, unless ended is set. It copies, under the
// lock that connections wait for, no more than those that match but for Where.
func (t *Table) Select(sel Selector, ended bool) []Entry {
	if sel.IsZero() {
		return nil
	}
	sel.ID = strings.ToLower(sel.ID)
	var list, some []Entry
	for next := 0; next < len(t.leaves); {
		some, next = t.copyMatching(some[:0], sel, ended, next)
		if sel.Where != nil { // outside the lock: it may be slow
			some = slices.DeleteFunc(some, func(e Entry) bool { return !sel.Where(e.Session, e.Conns) })
		}
		list = append(list, some...)
	}
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(a.Session.Created.Compare(b.Session.Created), bytes.Compare(a.Session.ID[:], b.Session.ID[:]))
	})
	return list
}

// copyMatching appends what matches in some leaves, the first of which is given, and returns the next: neither must deadlines
// of a large table wait for all, nor do copies of all have a place in memory.
func (t *Table) copyMatching(list []Entry, sel Selector, ended bool, leaf int) ([]Entry, int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	note := func(e *entry) {
		if (e.ended == nil || ended) && sel.matches(e) {
			list = append(list, Entry{t.sessionLocked(e), e.connections()})
		}
	}
	if sel.ID != "" {
		for e := range t.withPrefixLocked(sel.ID) {
			note(e)
		}
		return list, len(t.leaves)
	}
	for _, e := range t.leaves[leaf : leaf+leavesAtOnce] {
		for ; e != nil; e = e.next {
			note(e)
		}
	}
	return list, leaf + leavesAtOnce
}

// Connections returns how many connections there are on this host: those of sessions that live, and those of
// sessions that have just ended until they are gone too.
func (t *Table) Connections() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.attached
}

// Count returns how many sessions live.
func (t *Table) Count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live
}
