// SPDX-License-Identifier: Apache-2.0

package session

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
)

// markName is whom a watermark is about.
type markName struct{ issuer, subject, sid, email string }

func (w *Watermark) name() markName {
	if email, ok := strings.CutPrefix(w.Subject, emailSubject); ok {
		return markName{issuer: w.Issuer, email: email}
	}
	return markName{issuer: w.Issuer, subject: w.Subject, sid: w.SID}
}

// marks are watermarks: for each name at most one of an origin with Fresh, and one without. Guarded by Table.mu.
type marks struct {
	byName map[markName][]*mark
	count  int
	sweep  Instant // when to look next for those that are to be forgotten: as the first is, or a little later
	// version changes with what Table.Watermarks returns.
	version uint64
}

const marksSweep = time.Second // between looks, at least

type mark struct {
	Watermark
	unsaved bool // it is not known to be durable
}

// names are whom watermarks can be about that are about a session: as many as n.
func names(i *Identity, sid string) (list [5]markName, n int) {
	list = [5]markName{{}, {subject: i.Subject}, {issuer: i.Issuer, subject: i.Subject}, {issuer: i.Issuer, sid: sid}, {issuer: i.Issuer, email: strings.ToLower(i.Email)}}
	if sid == "" {
		list[3] = markName{issuer: i.Issuer, subject: i.Subject, sid: UnnamedSID}
	}
	switch {
	case i.Issuer == "":
		return list, 2
	case i.Email == "":
		return list, 4
	}
	return list, 5
}

// of yields the watermarks that are about a session.
func (m *marks) of(i *Identity, sid string) iter.Seq[*mark] {
	list, n := names(i, sid)
	return func(yield func(*mark) bool) {
		for _, name := range list[:n] {
			for _, w := range m.byName[name] {
				if !yield(w) {
					return
				}
			}
		}
	}
}

// put adds a watermark, unless one that says as much is there, which it returns.
func (m *marks) put(w Watermark) (now *mark, news bool) {
	list := m.byName[w.name()]
	for _, old := range list {
		if old.Origin != w.Origin || (old.Fresh != 0) != (w.Fresh != 0) {
			continue
		}
		merged := mergeWatermarks(old.Watermark, w)
		if merged == old.Watermark {
			return old, false
		}
		*old = mark{merged, true}
		m.version++
		return old, true
	}
	now = &mark{w, true}
	m.byName[w.name()] = append(list, now)
	m.count++
	m.version++
	return now, true
}

// mergeWatermarks returns what follows from two watermarks that merge. It is commutative, associative and idempotent. What happened
// first may be told last, so Fresh may come from the one, and all else from the other.
func mergeWatermarks(a, b Watermark) Watermark {
	out := a
	if b.Before > a.Before {
		out = b
	}
	out.Fresh = max(a.Fresh, b.Fresh)
	return out
}

// check says what is wrong with a watermark.
func (w *Watermark) check() error {
	if w.Before <= 0 || w.End.Reason == "" || w.Keep < 0 || w.Keep > MaxLifetime || w.Fresh < 0 || w.Fresh != 0 && (w.Issuer == "" || w.SID == UnnamedSID) ||
		w.Issuer != "" && w.Subject == "" && w.SID == "" || w.SID != "" && (w.Issuer == "" || (w.Subject != "") != (w.SID == UnnamedSID)) {
		return fmt.Errorf("watermark of %q (session %q at %q) before %d: it says nothing", w.Subject, w.SID, w.Issuer, w.Before)
	}
	return nil
}

// Raise ends every session that the watermark is about, and will end those that are heard of later; durably. It
// reports whether the watermark was news. Where the two clocks cannot be compared, every session is taken to be
// older that was born before the watermark was heard of: doubt is refused.
func (t *Table) Raise(w Watermark) (news bool, endings []Ending, err error) {
	if err := w.check(); err != nil {
		return false, nil, err
	}
	t.mu.Lock()
	now := t.cfg.Clock.Boot()
	w.Learned = now
	t.forgetMarksLocked(now)
	if t.markEndLocked(&w) <= now { // whoever told it had not forgotten it yet
		t.mu.Unlock()
		return false, nil, nil
	}
	m, news := t.marks.put(w)
	t.marks.sweep = min(t.marks.sweep, max(t.markEndLocked(&w), now.Add(marksSweep)))
	w, unsaved := m.Watermark, m.unsaved
	t.mu.Unlock()
	if news {
		endings, err = t.EndAll(t.below(&w), w.End)
	}
	if unsaved { // also if an earlier call failed, or is not done
		err = errors.Join(err, t.saveWatermark(w))
	}
	return news, endings, err
}

func (t *Table) saveWatermark(w Watermark) error {
	if t.cfg.Watermarks != nil {
		if err := t.cfg.Watermarks.SaveWatermark(w); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.marks.byName[w.name()] {
		if m.Watermark == w {
			m.unsaved = false
		}
	}
	return nil
}

// Watermarks returns all that hold, in no order.
func (t *Table) Watermarks() []Watermark {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetMarksLocked(t.cfg.Clock.Boot())
	list := make([]Watermark, 0, t.marks.count)
	for _, marks := range t.marks.byName {
		for _, m := range marks {
			w := m.Watermark
			w.Learned = 0 // for this host only
			list = append(list, w)
		}
	}
	return list
}

// WatermarksVersion changes when what Watermarks returns does. It is cheap.
func (t *Table) WatermarksVersion() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetMarksLocked(t.cfg.Clock.Boot())
	return t.marks.version
}

// RestoreWatermark adds a watermark that the store knew. Call it before the sessions are restored.
func (t *Table) RestoreWatermark(w Watermark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.Learned == 0 {
		w.Learned = t.cfg.Clock.Boot()
	}
	m, _ := t.marks.put(w)
	m.unsaved, t.marks.sweep = false, 0
}

// belowLocked returns a watermark that ends the session.
func (t *Table) belowLocked(s *Session) (Watermark, bool) {
	for w := range t.marks.of(&s.Identity, s.SID) {
		if t.endsLocked(&w.Watermark, s) {
			return w.Watermark, true
		}
	}
	return Watermark{}, false
}

// endsLocked reports whether a watermark, which is about the session, ends it.
func (t *Table) endsLocked(w *Watermark, s *Session) bool {
	return s.stale(w) || t.bornBeforeLocked(s.Origin, s.Born, w)
}

// bornBeforeLocked reports whether a session is older than the watermark, or never to be. What a watermark says by a
// clock that nobody can compare any more, of a node that is gone, holds for what was there when it was heard of: not
// for ever.
func (t *Table) bornBeforeLocked(o Origin, born OriginTime, w *Watermark) bool {
	if w.SID != "" && w.SID != UnnamedSID && w.Fresh == 0 { // a provider's session that is over begins nothing any more
		return true
	}
	alone := Origin{} // whose boots have no names
	if o == w.Origin && o != alone {
		return born < w.Before
	}
	b, known := t.cfg.Timebase.Local(o, born)
	if !known {
		return true
	}
	at, known := t.cfg.Timebase.Local(w.Origin, w.Before)
	switch {
	case !known && w.Fresh != 0: // may be heard of long after; the session is known not to be stale, and that needs no clock
		return false
	case w.Origin == alone:
		at = min(at, w.Learned)
	case !known:
		at = w.Learned.Add(timingError)
	}
	return b < at
}

// forgetMarksLocked forgets watermarks that no session can be older than any more.
func (t *Table) forgetMarksLocked(now Instant) {
	if now < t.marks.sweep {
		return
	}
	t.marks.sweep = now.Add(MaxLifetime)
	for name, list := range t.marks.byName {
		kept := slices.DeleteFunc(list, func(m *mark) bool {
			if end := t.markEndLocked(&m.Watermark); end > now {
				t.marks.sweep = min(t.marks.sweep, max(end, now.Add(marksSweep)))
				return false
			}
			if t.cfg.Watermarks != nil {
				t.cfg.Watermarks.DeleteWatermarkSoon(m.Watermark)
			}
			t.marks.count--
			t.marks.version++
			return true
		})
		if t.marks.byName[name] = kept; len(kept) == 0 {
			delete(t.marks.byName, name)
		}
	}
}

// markEndLocked is when a watermark is forgotten. By a clock that nobody can compare any more it cannot be said: then by
// that on the wall, so that all nodes forget it and none learns it anew.
func (t *Table) markEndLocked(w *Watermark) Instant {
	keep := cmp.Or(w.Keep, MaxLifetime)
	if at, known := t.cfg.Timebase.Local(w.Origin, w.Before); known && w.Origin != (Origin{}) {
		return at.Add(keep)
	}
	if w.End.At.IsZero() {
		return w.Learned.Add(keep)
	}
	return max(t.cfg.Clock.Boot().Add(w.End.At.Add(keep).Sub(t.cfg.Clock.Wall())), 1)
}
