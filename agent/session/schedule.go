// SPDX-License-Identifier: Apache-2.0

package session

import "time"

// nextCheckLocked is when an entry has to be looked at next, seen from now: at its end; at the start of the
// last quarter of the idle timeout, if there are connections whose activity is not known yet, or
// activity that others do not know of, perhaps of connections that are gone; and when half of what is left has passed, if its deadline is a reading of another node's clock.
func (t *Table) nextCheckLocked(e *entry, now Instant) Instant {
	next := e.endsAt(t.grace)
	if e.idle != 0 && (len(e.conns) > 0 || e.untold && t.cfg.OnChange != nil) {
		if quarter := t.quarterLocked(e); now < quarter {
			next = Earliest(next, quarter)
		}
	}
	if left := e.until.Sub(now); left > closeEnough && e.origin() != t.self {
		next = Earliest(next, now.Add(left/2))
	}
	return next
}

// quarterLocked is the start of the last quarter of the idle timeout, as nodes see it that know of no activity
// but what was published.
func (t *Table) quarterLocked(e *entry) Instant {
	last := e.lastActive
	if t.cfg.OnChange != nil {
		if at, ok := t.cfg.Timebase.Local(e.origin(), max(e.published, e.born)); ok {
			last = min(last, at)
		}
	}
	return last.Add(e.idle - e.idle/4)
}

// publishLocked publishes activity that other nodes do not know of, if they would soon take the session
// to be idle: the trailing edge. What it returns calls back, without the lock.
func (t *Table) publishLocked(e *entry, now Instant) func() {
	if t.cfg.OnChange == nil || !e.untold || now < t.quarterLocked(e) {
		return func() {}
	}
	return t.tellLocked(e)
}

// TellActivity publishes, and saves, all activity that other nodes do not know of: this host is about to leave them, and
// they would take sessions to be idle since they last heard.
func (t *Table) TellActivity() {
	if t.cfg.OnChange == nil {
		return
	}
	for leaf := range t.leaves {
		var tell []func()
		t.mu.Lock()
		for e := t.leaves[leaf]; e != nil; e = e.next {
			if e.ended == nil && e.idle > 0 && e.untold {
				publish := t.tellLocked(e)
				s := t.sessionLocked(e)
				tell = append(tell, publish, func() { t.saveSoon(s) })
			}
		}
		t.mu.Unlock()
		for _, f := range tell {
			f()
		}
	}
}

// tellLocked publishes the last activity; what it returns calls back, without the lock.
func (t *Table) tellLocked(e *entry) func() {
	at, ok := t.cfg.Timebase.Remote(e.origin(), e.lastActive)
	if !ok || at <= max(e.published, e.born) {
		return func() {}
	}
	t.changeLocked(e, func() { e.published = at })
	e.untold = false
	r := t.recordLocked(e)
	return func() { t.cfg.OnChange(r) }
}

// catchUp is how long a node that was away may take to hear of activity elsewhere.
const catchUp = 30 * time.Second

// wasAwayLocked reports whether an idle end that is due should have been seen long ago: this host was suspended,
// or the agent stopped, or word of the session came late. What it knows of activity elsewhere is as old
// then, and its word would end the session on every node. New connections are refused all the same, and the
// kernel's lease on live ones has run out.
func (t *Table) wasAwayLocked(e *entry, now Instant) bool {
	return t.cfg.OnChange != nil && now < e.until && now.Sub(e.check) > max(t.grace, time.Second)
}

const (
	// closeEnough is what is left of a session when its deadline is not translated anew any more: two clocks
	// drift apart by at most maxDrift of it.
	closeEnough = time.Second
	// maxDrift is how far two clocks can drift apart, in parts of a million of the time that passes: more
	// than twice what crystals do.
	maxDrift = 200
	// askAgain is when the deadline of an ended session is translated anew of which the clock was not known.
	askAgain = 5 * time.Second
	// timingError is by how much the translation of an instant may be off.
	timingError = time.Millisecond
)

// drift is how far another clock can have drifted from this host's since it booted.
func drift(now Instant) Instant { return now / 1_000_000 * maxDrift }

// retimeLocked translates the deadline anew when half of what was left has passed. It moves freely to an
// earlier instant; to a later one only by what clocks have drifted since it was translated first, however often
// this is done, so that neither a clock that was stopped nor one that lies lengthens a session. Of a session that
// outlived a reboot, the first translation is the store's, by the wall clock.
func (t *Table) retimeLocked(e *entry, now Instant) {
	if e.origin() == t.self || now >= e.until {
		return
	}
	if until, ok := t.cfg.Timebase.Local(e.origin(), e.ends); ok {
		e.until = max(min(until, e.bound+drift(now)+Instant(timingError)), 1)
	}
}

// shortenLocked takes over an earlier deadline. The difference is the same by every clock, but for drift.
func (t *Table) shortenLocked(e *entry, ends OriginTime) {
	by := Instant(e.ends - ends)
	e.ends = ends
	e.bound -= by
	e.until = max(e.until-by, 1)
	e.deadline -= int64(by)
	t.retimeLocked(e, t.cfg.Clock.Boot())
}
