// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"time"
)

// MergeResult is what became of records that came from another node.
type MergeResult struct {
	News    []Record // what this table did not know yet: to be passed on
	Ended   []Ending // sessions that lived here until now
	Refused int      // records of sessions that are over, too long, or too many
	Unknown []ID     // records whose clock cannot be translated yet: to be sent again
}

// Merge takes over what other nodes know of sessions. Gates have been shut on what it ends before
// anything is written; all is durable when it returns without an error.
func (t *Table) Merge(records []Record) (MergeResult, error) {
	var m MergeResult
	var dirty []Session
	for _, followed := range []bool{true, false} { // who takes over comes before who is taken over
		for _, r := range records {
			if followed == r.Supersedes.IsZero() {
				continue
			}
			t.mu.Lock()
			changed, after := t.mergeLocked(r, &m)
			e := t.byID[r.ID]
			if changed {
				m.News = append(m.News, t.recordLocked(e))
				e.unsaved = true
			}
			if e != nil && e.unsaved { // perhaps since an earlier call, which failed or is not done
				dirty = append(dirty, t.sessionLocked(e))
			}
			t.mu.Unlock()
			m.Ended = append(m.Ended, after.ended...)
			dirty = append(dirty, after.finish(t)...)
		}
	}
	if err := t.saveNow(dirty); err != nil {
		return m, fmt.Errorf("take over sessions: %w", err)
	}
	return m, nil
}

// saveNow makes sessions durable. What fails is tried again by the next call that is about them.
func (t *Table) saveNow(list []Session) error {
	if err := t.save(list...); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range list {
		// Unless it has changed since.
		if e := t.byID[list[i].ID]; e != nil && e.unsaved && e.ended == list[i].Ended && e.published == list[i].Published && e.ends == list[i].Ends {
			e.unsaved = false
		}
	}
	return nil
}

// mergeLocked merges one record and reports whether the table knows more than before.
func (t *Table) mergeLocked(r Record, m *MergeResult) (changed bool, after aftermath) {
	e := t.byID[r.ID]
	if e == nil {
		return t.mergeNewLocked(r, m)
	}
	before := t.recordLocked(e)
	merged := Merge(before, r)
	if before.Tombstone() != merged.Tombstone() { // word of a session that has ended already
		t.removeLocked(e)
		return t.mergeNewLocked(merged, m)
	}
	if before.hash() == merged.hash() {
		return false, after
	}
	t.changeLocked(e, func() {
		e.published = merged.Active
		if t.describeLocked(e, &merged) && e.ended == nil && merged.Revoked == nil {
			s := t.sessionLocked(e)
			after.identity = &s
		}
		e.setExtra(merged.Extra)
		if merged.Deadline < e.ends {
			t.shortenLocked(e, merged.Deadline)
		}
	})
	if e.ended != nil {
		if merged.Revoked != nil {
			t.changeLocked(e, func() { e.ended = merged.Revoked }) // another end: it stays ended
		}
		return true, after
	}
	if merged.Revoked != nil {
		after.ended = append(after.ended, t.endLocked(e, *merged.Revoked))
		return true, after
	}
	if at, ok := t.cfg.Timebase.Local(e.origin(), e.published); ok && e.published != 0 {
		e.hear(min(at, t.cfg.Clock.Boot()))
	}
	t.rescheduleLocked(e, t.nextCheckLocked(e, t.cfg.Clock.Boot()))
	if len(e.conns) > 0 {
		after.moved = &movedSession{e.id, e.number}
	}
	return true, after
}

// mergeNewLocked adds a session that the table has not heard of.
func (t *Table) mergeNewLocked(r Record, m *MergeResult) (added bool, after aftermath) {
	now := t.cfg.Clock.Boot()
	until, known := t.cfg.Timebase.Local(r.Origin, r.Deadline)
	switch {
	case r.ID.IsZero() || r.Deadline <= 0 || r.Tombstone() && r.Revoked == nil || !r.Tombstone() && (r.Identity.Subject == "" || r.Born == 0):
		m.Refused++ // it says nothing, or nonsense
		return false, after
	case !known && r.Revoked == nil:
		m.Unknown = append(m.Unknown, r.ID)
		return false, after
	case !known:
		until = now.Add(MaxLifetime) // remembered for as long as anything could bring it back
	case until <= now || until > now.Add(MaxLifetime+t.cfg.Retention) || r.Revoked == nil && t.live >= t.cfg.MaxSessions && !t.livesLocked(r.Supersedes):
		m.Refused++
		return false, after
	}
	s := t.sessionOf(r, until, now)
	if s.Ended == nil {
		t.endBeforeItBeganLocked(&s)
	}
	rival := t.byKey[s.Key]
	replayed := t.byCredential[s.Credential]
	e := t.insertLocked(s)
	after.ended = append(t.settleLocked(e, rival, &after), t.endReplayedLocked(e, replayed)...)
	return true, after
}

func (t *Table) livesLocked(id ID) bool {
	e := t.byID[id]
	return e != nil && e.ended == nil
}

// endBeforeItBeganLocked ends a session of which word comes after word of what ended it.
func (t *Table) endBeforeItBeganLocked(s *Session) {
	if next := t.inPlaceOfLocked(s); next != nil {
		end := next.supersedingEnd()
		s.Ended = &end
	} else if w, below := t.belowLocked(s); below {
		end := w.End
		s.Ended = &end
	}
}

// sessionOf is what the record of another node means here.
func (t *Table) sessionOf(r Record, until, now Instant) Session {
	s := Session{
		ID: r.ID, Identity: r.Identity, Key: r.Key, Method: r.Method, Created: r.Created, IdleTimeout: r.IdleTimeout, BindAddrs: r.BindAddrs,
		SID: r.SID, Credential: r.Credential, Validated: r.Validated, Supersedes: r.Supersedes, Generation: r.Generation, Origin: r.Origin, Born: r.Born, Ends: r.Deadline, Published: r.Active, Extra: r.Extra,
		Deadline: t.cfg.Clock.Wall().Add(until.Sub(now)), Until: until, LastActive: now, Ended: r.Revoked,
	}
	if at, ok := t.cfg.Timebase.Local(r.Origin, max(r.Active, r.Born)); ok {
		s.LastActive = min(at, now)
	}
	return s
}

// Records returns what is known in common of sessions; ids that are not known are left out.
func (t *Table) Records(ids []ID) []Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]Record, 0, len(ids))
	for _, id := range ids {
		if e := t.byID[id]; e != nil && e.summed {
			list = append(list, t.recordLocked(e))
		}
	}
	return list
}

// RecordOf returns the session that a key finds, live or ended.
func (t *Table) RecordOf(k Key) (Record, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byKey[k]
	if e == nil {
		return Record{}, false
	}
	return t.recordLocked(e), true
}

// Digest returns a copy of the sum of all that is known in common: half a megabyte.
func (t *Table) Digest() Digest {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.digest
}

// Fold returns the buckets of the digest.
func (t *Table) Fold() [256]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.digest.Fold()
}

// Summaries returns what is summed up in the leaves.
func (t *Table) Summaries(leaves map[uint16]bool) []Summary {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []Summary
	for leaf, wanted := range leaves {
		for e := t.leaves[leaf]; wanted && e != nil; e = e.next {
			if e.summed {
				r := t.recordLocked(e)
				list = append(list, Summary{e.id, r.hash()})
			}
		}
	}
	return list
}

// recordLocked is the entry as other nodes know it.
func (t *Table) recordLocked(e *entry) Record {
	r := Record{ID: e.id, Key: e.key, Method: e.made.Value().method, Created: time.Unix(0, e.created), IdleTimeout: e.idle,
		Origin: e.origin(), Born: e.born, Deadline: e.ends, Active: e.published,
		SID: e.sid, Credential: e.credential, Validated: e.validated,
		BindAddrs: e.bindAddrs, Supersedes: e.supersedes, Generation: e.generation, Extra: e.extra}
	if e.identity != nil {
		r.Identity = e.identity.Identity
	}
	if e.ended != nil && e.ended.Reason != ReasonAbsolute { // every node comes to that by itself
		r.Revoked = e.ended
	}
	return r
}

// changeLocked changes what the digest sums up of an entry.
func (t *Table) changeLocked(e *entry, change func()) {
	summed := e.summed
	if summed {
		t.toggleLocked(e)
	}
	change()
	if summed {
		t.toggleLocked(e)
	}
}

// toggleLocked takes an entry into the digest, or out of it: what it sums up must not change in between.
func (t *Table) toggleLocked(e *entry) {
	r := t.recordLocked(e)
	t.digest.toggle(e.id, r.hash())
	e.summed = !e.summed
}

// changed tells other nodes of a session.
func (t *Table) changed(id ID) {
	if t.cfg.OnChange == nil {
		return
	}
	t.mu.Lock()
	e := t.byID[id]
	if e == nil {
		t.mu.Unlock()
		return
	}
	r := t.recordLocked(e)
	t.mu.Unlock()
	t.cfg.OnChange(r)
}

// SetIdleGrace sets how long after its idle timeout a session still lives, while new connections are
// refused: in a cluster, word of activity elsewhere may be on its way. Zero at first.
func (t *Table) SetIdleGrace(grace time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.grace = grace
}

// thisHost is the Timebase of a node that is in no cluster.
type thisHost struct{}

func (thisHost) Self() Origin { return Origin{} }
func (thisHost) Local(o Origin, at OriginTime) (Instant, bool) {
	return Instant(at), o == Origin{}
}
func (thisHost) Remote(o Origin, at Instant) (OriginTime, bool) {
	return OriginTime(at), o == Origin{}
}
