// SPDX-License-Identifier: Apache-2.0

package session

import "time"

// aftermath is what remains to be done when the lock has been given back.
type aftermath struct {
	followed ID // to be taken over from, by the session that was just added
	takeover *Takeover
	ended    []Ending
	moved    *movedSession
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
			a.ended = append(a.ended, t.takeOverLocked(next, a)...)
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
	return dirty
}

// takeOverLocked ends the session that next supersedes, if it lives here, after its connections and its
// number went over to next. Where next is dead on arrival they stay, and end with it.
func (t *Table) takeOverLocked(next *entry, after *aftermath) []Ending {
	old := t.byID[next.rare.supersedes]
	tombstone := next.key.IsZero() // it does not say whose it is, and ends the one before all the same
	if old == nil || old.ended != nil || !tombstone && !old.sameUser(next) {
		return nil
	}
	if next.ended == nil {
		old.number, next.number = next.number, old.number
		old.conns, next.conns = nil, old.conns
		for c := range next.conns {
			c.session.Store(&next.id)
		}
		next.touch(old.lastActive)
		t.byKey[next.key] = next
		now := t.cfg.Clock.Boot()
		t.rescheduleLocked(next, t.nextCheckLocked(next, now))
	}
	ending := t.endLocked(old, next.supersedingEnd())
	if next.ended == nil {
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
