// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"fmt"
	"time"
)

// Attach adds a live connection to its session and returns the number by which the kernel knows
// the session, and when the session ends as of now. The connection counts as activity. Returns an
// *EndedError, ErrNotFound or ErrTooMany; the connection is not attached then.
func (t *Table) Attach(c *Connection) (number uint64, ends Instant, err error) {
	publish := func() {}
	defer func() { publish() }() // after the lock was given back
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byID[c.Session()]
	if e == nil {
		return 0, 0, ErrNotFound
	}
	if _, err := t.aliveLocked(e); err != nil {
		return 0, 0, err
	}
	if len(e.conns) >= t.cfg.MaxConns {
		return 0, 0, fmt.Errorf("%w connections: the limit for a session is %d", ErrTooMany, t.cfg.MaxConns)
	}
	if e.conns == nil {
		e.conns = map[*Connection]bool{}
	}
	e.conns[c] = true
	t.attached++
	now := t.cfg.Clock.Boot()
	c.Activity.renew.Store(e.idle != 0 && now >= t.quarterLocked(e))
	e.touch(now)
	publish = t.publishLocked(e, now)
	t.rescheduleLocked(e, t.nextCheckLocked(e, now))
	c.Activity.Wake = func() { t.Touch(c.Session(), t.cfg.Clock.Boot()) }
	c.Activity.Now = t.cfg.Clock.Coarse
	return e.number, e.endsAt(t.grace), nil
}

// Detach removes a connection from its session; what it did last still counts as activity. It
// reports how the session ended if it did, and whether this was the session's last connection.
func (t *Table) Detach(c *Connection) (ended *End, last bool) {
	now := t.cfg.Clock.Boot()
	at := c.Activity.last(now)
	publish := func() {}
	defer func() { publish() }() // after the lock was given back
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byID[c.Session()]
	if e == nil || !e.conns[c] {
		return nil, false
	}
	delete(e.conns, c)
	t.attached--
	if len(e.conns) == 0 {
		e.conns = nil
	}
	if e.ended == nil {
		e.touch(at)
		publish = t.publishLocked(e, now)
		t.rescheduleLocked(e, t.nextCheckLocked(e, now))
	}
	return e.ended, e.conns == nil
}

// Touch records activity of a session at an instant: its idle lease moves, never back.
func (t *Table) Touch(id ID, at Instant) {
	t.mu.Lock()
	e := t.byID[id]
	if e == nil || e.ended != nil || at >= e.endsAt(t.grace) || !e.touch(at) {
		t.mu.Unlock()
		return
	}
	now := t.cfg.Clock.Boot()
	publish := t.publishLocked(e, now)
	t.rescheduleLocked(e, t.nextCheckLocked(e, now))
	s, number, live := t.sessionLocked(e), e.number, len(e.conns) > 0
	t.mu.Unlock()
	if live {
		t.moved(s.ID, number)
	}
	publish()
	t.saveSoon(s)
}

// End ends one session, as EndAll does. Returns ErrNotFound, or an *EndedError if it had ended already.
func (t *Table) End(id ID, end End) (Ending, error) {
	endings, err := t.EndAll([]ID{id}, end)
	if len(endings) == 1 {
		return endings[0], err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byID[id]; e != nil && e.ended != nil {
		return Ending{}, &EndedError{ID: id, End: *e.ended}
	}
	return Ending{}, ErrNotFound
}

// EndAll ends those of the sessions that live, and returns them. OnEnd has been called for all of
// them, and others have been told, before the first is made durable; all are when it returns. With an error of the store they have
// ended nevertheless, but some might be forgotten in a restart.
func (t *Table) EndAll(ids []ID, end End) ([]Ending, error) {
	if end.At.IsZero() {
		end.At = t.cfg.Clock.Wall()
	}
	var endings []Ending
	for _, id := range ids {
		t.mu.Lock()
		e := t.byID[id]
		if e == nil || e.ended != nil {
			t.mu.Unlock()
			continue
		}
		ending := t.endLocked(e, end)
		e.unsaved = true
		t.mu.Unlock()
		t.ended(ending)
		endings = append(endings, ending)
	}
	for _, e := range endings {
		t.changed(e.Session.ID) // it is right even if this node forgets it: a kill need not wait for the disk
	}
	return endings, t.saveAll(endings)
}

func (t *Table) saveAll(endings []Ending) error {
	list := make([]Session, len(endings))
	for i, e := range endings {
		list[i] = e.Session
	}
	if err := t.saveNow(list); err != nil {
		return fmt.Errorf("end %d sessions: %w", len(list), err)
	}
	return nil
}

// Run fires deadlines until ctx is done, and returns nil then.
func (t *Table) Run(ctx context.Context) error {
	for {
		t.fire()
		if err := t.cfg.Alarm.Wait(ctx); err != nil {
			return nil
		}
	}
}

// fire looks at every entry that is due.
func (t *Table) fire() {
	t.mu.Lock()
	t.armed = 0 // it went off
	t.mu.Unlock()
	for {
		now := t.cfg.Clock.Boot()
		t.mu.Lock()
		if len(t.queue) == 0 || t.queue[0].check > now {
			t.setAlarmLocked()
			t.mu.Unlock()
			return
		}
		e := t.queue[0]
		var ask []*Connection
		if e.ended == nil && e.idle > 0 && now < e.until {
			ask = e.connections()
		}
		t.mu.Unlock()
		last := lastActivity(ask, now) // reads the sockets: not under the lock
		t.mu.Lock()
		after := t.lookLocked(e, now, last)
		t.mu.Unlock()
		after()
	}
}

func lastActivity(conns []*Connection, now Instant) Instant {
	var last Instant
	for _, c := range conns {
		last = max(last, c.Activity.last(now))
	}
	return last
}

// lookLocked decides what is due for an entry, and returns what remains to be done without the lock.
func (t *Table) lookLocked(e *entry, now, last Instant) func() {
	if t.byID[e.id] != e || e.check > now {
		return func() {} // forgotten meanwhile, or put off
	}
	if e.ended != nil {
		return t.lookAtEndedLocked(e, now)
	}
	before := e.endsAt(t.grace)
	touched := e.touch(last)
	t.retimeLocked(e, now)
	if now >= e.endsAt(t.grace) {
		if t.wasAwayLocked(e, now) {
			t.rescheduleLocked(e, Earliest(e.until, now.Add(catchUp)))
			return func() {}
		}
		ending := t.endLocked(e, t.timeoutEndLocked(e, now))
		return func() {
			t.ended(ending)
			t.saveSoon(ending.Session)
		}
	}
	publish := t.publishLocked(e, now)
	if e.idle != 0 && now >= t.quarterLocked(e) {
		for c := range e.conns {
			c.Activity.renew.Store(true)
		}
	}
	t.rescheduleLocked(e, t.nextCheckLocked(e, now))
	if !touched && before == e.endsAt(t.grace) {
		return publish
	}
	s, number := t.sessionLocked(e), e.number
	return func() {
		t.moved(s.ID, number)
		publish()
		t.saveSoon(s)
	}
}

// lookAtEndedLocked takes an ended session out of the digest when its deadline has passed, for then no node
// takes word of it any more, and forgets it after the retention.
func (t *Table) lookAtEndedLocked(e *entry, now Instant) func() {
	if until, known := t.cfg.Timebase.Local(e.origin(), e.ends); known && e.summed {
		e.until = min(e.until, max(until, 1)) // it was a guess, if the clock was not known
	}
	if e.summed && now < e.until {
		t.rescheduleLocked(e, t.endedCheckLocked(e))
		return func() {}
	}
	if now < t.forgetAtLocked(e) && e.summed {
		t.toggleLocked(e)
		t.rescheduleLocked(e, t.forgetAtLocked(e))
		return func() {}
	}
	t.removeLocked(e)
	return func() { t.deleted(e.id) }
}

// endLocked marks an entry ended. The caller calls t.ended and saves without the lock.
func (t *Table) endLocked(e *entry, end End) Ending {
	t.changeLocked(e, func() { e.ended = &end })
	t.live--
	t.unbindLocked(e)
	t.rescheduleLocked(e, t.endedCheckLocked(e))
	return Ending{Session: t.sessionLocked(e), Number: e.number, Conns: e.connections()}
}

// endedCheckLocked is when an ended entry has to be looked at next: at its deadline, or soon if nobody knows
// here when that is.
func (t *Table) endedCheckLocked(e *entry) Instant {
	if e.summed {
		until, known := t.cfg.Timebase.Local(e.origin(), e.ends)
		if !known {
			until = t.cfg.Clock.Boot().Add(askAgain)
		}
		return Earliest(e.until, max(until, 1))
	}
	return t.forgetAtLocked(e)
}

func (t *Table) rescheduleLocked(e *entry, at Instant) {
	t.queue.reschedule(e, at)
	t.setAlarmLocked()
}

// timeoutEndLocked is the end of a session whose time is up. That of an idle one is the same on every node
// that knows the same of its activity.
func (t *Table) timeoutEndLocked(e *entry, now Instant) End {
	if now >= e.until {
		return End{Reason: ReasonAbsolute, At: t.cfg.Clock.Wall()}
	}
	if t.cfg.OnChange == nil {
		return End{Reason: ReasonIdle, At: t.cfg.Clock.Wall()}
	}
	last := max(e.published, e.born)
	return End{Reason: ReasonIdle, At: time.Unix(0, e.created).Add(time.Duration(last-e.born) + e.idle).UTC()}
}

func (t *Table) ended(e Ending) {
	if t.cfg.OnEnd != nil {
		t.cfg.OnEnd(e)
	}
}

func (t *Table) moved(id ID, number uint64) {
	if t.cfg.OnMove != nil {
		t.cfg.OnMove(id, number)
	}
}

// saveSoon is for what a restart would find out by itself: a deadline that has passed, activity.
func (t *Table) saveSoon(s Session) {
	if t.cfg.Store != nil {
		t.cfg.Store.SaveSoon(s)
	}
}

func (t *Table) deleted(id ID) {
	if t.cfg.Store != nil {
		t.cfg.Store.DeleteSoon(id)
	}
}
