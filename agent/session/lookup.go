// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
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
	for id, e := range t.byID {
		if !strings.HasPrefix(id.String(), prefix) {
			continue
		}
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

// Select returns the sessions that match, by creation; live ones only, unless ended is set.
func (t *Table) Select(sel Selector, ended bool) []Entry {
	t.mu.Lock()
	list := make([]Entry, 0, len(t.byID))
	for _, e := range t.byID {
		if e.ended == nil || ended {
			list = append(list, Entry{t.sessionLocked(e), e.connections()})
		}
	}
	t.mu.Unlock()
	// Outside the lock: a condition may be slow.
	list = slices.DeleteFunc(list, func(e Entry) bool { return !sel.matches(e.Session, e.Conns) })
	slices.SortFunc(list, func(a, b Entry) int {
		if c := a.Session.Created.Compare(b.Session.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Session.ID.String(), b.Session.ID.String())
	})
	return list
}

// Connections returns how many connections the live sessions have on this host.
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
