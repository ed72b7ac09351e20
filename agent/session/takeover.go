// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"cmp"
	"time"
)

// aftermath is what remains to be done when the lock has been given back.
type aftermath struct {
	followed ID // to be taken over from, by the session that was just added
	takeover *Takeover
	ended    []Ending
	moved    *movedSession
	identity *Session // of which other things are said than before
}

type movedSession struct {
	id     ID
	number uint64
}

// finish calls back, and returns the sessions that remain to be saved.
func (a *aftermath) finish(t *Table) (dirty []Session) {
	if !a.followed.IsZero() {
		t.mu.Lock()
		if next := t.supersededBy[a.followed]; next != nil {
			a.ended = append(a.ended, t.settleLocked(next, t.byKey[next.key], a)...)
		}
		t.mu.Unlock()
	}
	if a.takeover != nil && t.cfg.OnSupersede != nil {
		t.cfg.OnSupersede(*a.takeover)
	}
	for _, e := range a.ended {
		t.ended(e)
		dirty = append(dirty, e.Session)
	}
	if a.moved != nil {
		t.moved(a.moved.id, a.moved.number)
	}
	if a.identity != nil && t.cfg.OnIdentity != nil {
		t.cfg.OnIdentity(*a.identity)
	}
	return dirty
}

// inPlaceOfLocked returns what has the place of a session that is about to be added: what supersedes it, or a
// later one of the same key. Two of a key were created on two nodes before either had heard of the other.
func (t *Table) inPlaceOfLocked(s *Session) *entry {
	if next := t.supersededBy[s.ID]; next != nil {
		return next
	}
	if s.Key.IsZero() {
		return nil
	}
	if rival := t.byKey[s.Key]; rival != nil && rival.ended == nil && rival.id != s.Supersedes && rival.laterThan(s.Generation, unixNano(s.Created), s.ID) {
		return rival
	}
	return nil
}

// foundBefore reports whether the key of two sessions finds e rather than old: the one that lives, else the
// later; on every node the same. One that waits to take over from old is not found yet.
func (e *entry) foundBefore(old *entry) bool {
	if live := e.ended == nil; live != (old.ended == nil) {
		return live
	}
	if e.ended == nil && e.supersedes == old.id {
		return false
	}
	return e.laterThan(old.generation, old.created, old.id)
}

// laterThan orders sessions of a key by what never changes in them, so that every node does it in the same way:
// whatever took over from another comes after that, and after all that came before. By clocks alone it could not
// be said: each node has its own.
func (e *entry) laterThan(generation uint32, created int64, id ID) bool {
	return cmp.Or(cmp.Compare(e.generation, generation), cmp.Compare(e.created, created), bytes.Compare(e.id[:], id[:])) > 0
}

// settleLocked ends what cannot live beside e, which was just added: what it supersedes, and rival, which its key
// found until now, or nil.
func (t *Table) settleLocked(e, rival *entry, after *aftermath) (endings []Ending) {
	if !e.supersedes.IsZero() {
		old := t.byID[e.supersedes]
		// A tombstone does not say whose it is, and ends the one before all the same.
		if old != nil && (e.key.IsZero() || old.sameUser(e)) {
			endings = t.takeOverLocked(old, e, after)
		}
	}
	if rival == nil || rival == e || rival.ended != nil || e.ended != nil || e.key.IsZero() {
		return endings
	}
	if e.laterThan(rival.generation, rival.created, rival.id) {
		return append(endings, t.takeOverLocked(rival, e, after)...)
	}
	return append(endings, t.takeOverLocked(e, rival, after)...)
}

// takeOverLocked ends old, if it lives here, after its connections and its number went over to next. Where next
// is dead on arrival, or of somebody else, they stay, and end with it.
func (t *Table) takeOverLocked(old, next *entry, after *aftermath) []Ending {
	if old.ended != nil {
		return nil
	}
	if next.ended == nil {
		t.byKey[next.key] = next
	}
	moves := next.ended == nil && len(next.conns) == 0 && old.sameUser(next)
	if moves {
		old.number, next.number = next.number, old.number
		old.conns, next.conns = nil, old.conns
		for c := range next.conns {
			c.session.Store(&next.id)
		}
		next.touch(old.lastActive)
		t.rescheduleLocked(next, t.nextCheckLocked(next, t.cfg.Clock.Boot()))
	}
	ending := t.endLocked(old, next.supersedingEnd())
	if moves {
		after.takeover = &Takeover{Old: ending.Session, New: t.sessionLocked(next), Number: next.number, Conns: next.connections()}
	}
	return []Ending{ending}
}

// supersedingEnd is the end of the session that e supersedes: the same on every node.
func (e *entry) supersedingEnd() End {
	return End{Reason: ReasonSuperseded, By: e.id.String(), At: time.Unix(0, e.created).UTC()}
}

// sameUser reports whether two sessions are of one key and one identity.
func (e *entry) sameUser(other *entry) bool {
	return e.key == other.key && e.identity != nil && other.identity != nil && sameIdentity(e.identity.Identity, other.identity.Identity)
}

func sameIdentity(a, b Identity) bool { return a.Issuer == b.Issuer && a.Subject == b.Subject }
