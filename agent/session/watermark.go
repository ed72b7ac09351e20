// SPDX-License-Identifier: Apache-2.0

package session

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// watermarkKey names what a later watermark replaces.
type watermarkKey struct {
	issuer, subject string
	origin          Origin
}

// covers reports whether the watermark is about an identity.
func (w *Watermark) covers(i Identity) bool {
	return w.Issuer == "" && w.Subject == "" || w.Subject == i.Subject && (w.Issuer == "" || w.Issuer == i.Issuer)
}

// Raise ends every session that was born before the watermark, and will end those that are heard of
// later; durably. It reports whether the watermark was news. Where the two clocks cannot be compared, every
// session is taken to be older that was born before the watermark was heard of: doubt is refused.
func (t *Table) Raise(w Watermark) (news bool, endings []Ending, err error) {
	if w.Before <= 0 || w.End.Reason == "" || w.Issuer != "" && w.Subject == "" {
		return false, nil, fmt.Errorf("watermark of %q before %d: it says nothing", w.Subject, w.Before)
	}
	t.mu.Lock()
	key := watermarkKey{w.Issuer, w.Subject, w.Origin}
	if old, ok := t.watermarks[key]; ok && old.Before >= w.Before {
		unsaved := t.unsavedMarks[key]
		t.mu.Unlock()
		if unsaved { // an earlier call failed, or is not done
			err = t.saveWatermark(old)
		}
		return false, nil, err
	}
	w.Learned = t.cfg.Clock.Boot()
	t.watermarks[key], t.unsavedMarks[key] = w, true
	t.mu.Unlock()
	endings, err = t.EndAll(t.below(&w), w.End)
	return true, endings, errors.Join(err, t.saveWatermark(w))
}

// below returns the live sessions that a watermark ends. Those that come while it looks have been held against it.
func (t *Table) below(w *Watermark) (ids []ID) {
	const atOnce = 1 << 8 // leaves: deadlines of a large table must not wait for all
	for i := 0; i < len(t.leaves); i += atOnce {
		t.mu.Lock()
		for _, e := range t.leaves[i : i+atOnce] {
			for ; e != nil; e = e.next {
				if e.ended == nil && e.identity != nil && w.covers(e.identity.Identity) && t.bornBeforeLocked(e.origin(), e.born, w) {
					ids = append(ids, e.id)
				}
			}
		}
		t.mu.Unlock()
	}
	return ids
}

func (t *Table) saveWatermark(w Watermark) error {
	if t.cfg.Watermarks != nil {
		if err := t.cfg.Watermarks.SaveWatermark(w); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if key := (watermarkKey{w.Issuer, w.Subject, w.Origin}); t.watermarks[key] == w {
		delete(t.unsavedMarks, key)
	}
	return nil
}

// Watermarks returns all that were raised, in no order that means anything but always the same.
func (t *Table) Watermarks() []Watermark {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]Watermark, 0, len(t.watermarks))
	for _, w := range t.watermarks {
		w.Learned = 0 // for this host only
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b Watermark) int {
		return cmp.Or(strings.Compare(a.Issuer, b.Issuer), strings.Compare(a.Subject, b.Subject),
			strings.Compare(a.Origin.Node, b.Origin.Node), cmp.Compare(a.Origin.Boot, b.Origin.Boot))
	})
	return list
}

// RestoreWatermark adds a watermark that the store knew. Call it before the sessions are restored.
func (t *Table) RestoreWatermark(w Watermark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.Learned == 0 {
		w.Learned = t.cfg.Clock.Boot()
	}
	t.watermarks[watermarkKey{w.Issuer, w.Subject, w.Origin}] = w
}

// belowLocked returns a watermark that ends the session.
func (t *Table) belowLocked(s *Session) (Watermark, bool) {
	for _, w := range t.watermarks {
		if w.covers(s.Identity) && t.bornBeforeLocked(s.Origin, s.Born, &w) {
			return w, true
		}
	}
	return Watermark{}, false
}

// bornBeforeLocked reports whether a session is older than the watermark. What a watermark says by a clock that nobody
// can compare any more, of a node that is gone, holds for what was there when it was heard of: not for ever.
func (t *Table) bornBeforeLocked(o Origin, born OriginTime, w *Watermark) bool {
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
	case w.Origin == alone:
		at = min(at, w.Learned)
	case !known:
		at = w.Learned.Add(timingError)
	}
	return b < at
}
