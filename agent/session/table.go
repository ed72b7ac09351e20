// SPDX-License-Identifier: Apache-2.0

package session

import (
	"container/heap"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// Store keeps sessions across restarts. It is called without the table's lock, concurrently.
// A later call for a session must win over an earlier one, and an end over everything.
type Store interface {
	// Save returns when the session is durable.
	Save(Session) error
	// SaveSoon and DeleteSoon do not block; a crash may lose them.
	SaveSoon(Session)
	DeleteSoon(ID)
}

// TableConfig is what a Table needs. All fields without "optional" are required.
type TableConfig struct {
	Clock Clock
	Alarm Alarm // optional: default is a TimerAlarm
	Store Store // optional: without it nothing outlives the process
	// OnEnd is called once for each session that ends, with the connections it had; OnMove when the
	// end of a session with live connections has moved: ask ByID for the instant, since calls may
	// overtake each other. Both are called without the lock, from the goroutine that caused it,
	// and must not block.
	OnEnd  func(Ending)
	OnMove func(id ID, number uint64)
	// MaxSessions and MaxConns limit live sessions, and connections of one session; zero means
	// the defaults.
	MaxSessions, MaxConns int
	// Retention is how long an ended session is remembered, so that its user is told why.
	Retention time.Duration
}

// Defaults of TableConfig.
const (
	DefaultMaxSessions = 1_000_000
	DefaultMaxConns    = 16_384
	DefaultRetention   = 24 * time.Hour
)

// Ending is a session that has just ended.
type Ending struct {
	Session Session
	Number  uint64 // names the session in the kernel
	Conns   []*Connection
}

// Table holds the sessions of this host, their live connections and their deadlines. It is safe
// for concurrent use. Run must be running for deadlines to fire.
type Table struct {
	cfg TableConfig

	mu     sync.Mutex
	byID   map[ID]*entry
	byKey  map[Key]*entry
	byAddr map[netip.Addr]map[*entry]bool
	people map[[2]string]*person // by issuer and subject
	queue  queue
	armed  Instant // what the alarm is set to
	live   int
	number uint64
}

// NewTable returns an empty table.
func NewTable(cfg TableConfig) (*Table, error) {
	if cfg.Clock == nil {
		return nil, fmt.Errorf("session table: Clock is required")
	}
	if cfg.Alarm == nil {
		cfg.Alarm = NewTimerAlarm(cfg.Clock)
	}
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = DefaultMaxSessions
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = DefaultMaxConns
	}
	if cfg.Retention == 0 {
		cfg.Retention = DefaultRetention
	}
	return &Table{
		cfg:    cfg,
		byID:   map[ID]*entry{},
		byKey:  map[Key]*entry{},
		byAddr: map[netip.Addr]map[*entry]bool{},
		people: map[[2]string]*person{},
		number: FirstNumber(cfg.Clock.Boot()),
	}, nil
}

// FirstNumber is where session numbers start that are given out from now on: the microseconds since
// boot. They go up by one a session, so a later process of the same boot starts above every number
// that an earlier one can have given out.
func FirstNumber(now Instant) uint64 { return uint64(now) / uint64(time.Microsecond) }

// Create adds a session that starts now, durably, and returns it. It sets Created, Deadline,
// Until and the idle lease from absolute and idle (zero idle: never). The session's ID may be
// preset. Returns ErrTooMany when the table is full, ErrKeyInUse when the key has a live session,
// or the store's error; nothing is added then.
func (t *Table) Create(s Session, absolute time.Duration) (Session, error) {
	if s.Key.IsZero() || s.Identity.Subject == "" || absolute <= 0 {
		return Session{}, fmt.Errorf("create session: key, subject and a positive absolute timeout are required")
	}
	now, wall := t.cfg.Clock.Boot(), t.cfg.Clock.Wall()
	if s.ID.IsZero() {
		s.ID = NewID()
	}
	s.Created, s.Deadline, s.Until = wall, wall.Add(absolute), now.Add(absolute)
	s.LastActive, s.IdleUntil, s.Ended = now, 0, nil
	if s.IdleTimeout > 0 {
		s.IdleUntil = now.Add(s.IdleTimeout)
	}
	if err := t.add(s); err != nil {
		return Session{}, fmt.Errorf("create session: %w", err)
	}
	if err := t.save(s); err != nil {
		t.forget(s.ID)
		return Session{}, fmt.Errorf("create session: %w", err)
	}
	return s, nil
}

// Restore adds a session that the store knew. Sessions whose end has passed are added as ended.
// Call it before Run.
func (t *Table) Restore(s Session) error {
	if s.IdleTimeout > 0 && s.IdleUntil == 0 {
		s.IdleUntil = s.LastActive.Add(s.IdleTimeout)
	}
	return t.add(s)
}

func (t *Table) add(s Session) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[s.ID] != nil {
		return fmt.Errorf("session %s: %w", s.ID.Short(), ErrExists)
	}
	if s.Ended == nil && t.live >= t.cfg.MaxSessions {
		return fmt.Errorf("%w sessions: the limit is %d", ErrTooMany, t.cfg.MaxSessions)
	}
	old := t.byKey[s.Key]
	if old != nil && old.ended == nil {
		return fmt.Errorf("client key: %w (session %s)", ErrKeyInUse, old.id.Short())
	}
	t.number++
	e := &entry{
		id: s.ID, key: s.Key, identity: t.internLocked(s.Identity), method: s.Method,
		created: s.Created.UnixNano(), deadline: s.Deadline.UnixNano(), idle: s.IdleTimeout, bindAddrs: s.BindAddrs,
		until: s.Until, idleUntil: s.IdleUntil, lastActive: s.LastActive, ended: s.Ended, number: t.number,
	}
	t.byID[e.id] = e
	if old == nil || s.Ended == nil || old.created < s.Created.UnixNano() {
		t.byKey[e.key] = e
	}
	e.check = e.endsAt()
	if e.ended != nil {
		e.check = t.forgetAtLocked(e)
	} else {
		t.live++
		t.bindLocked(e)
	}
	heap.Push(&t.queue, e)
	t.setAlarmLocked()
	return nil
}

// person is an identity that sessions share as long as it says the same in them.
type person struct {
	Identity
	sessions int
}

func (t *Table) internLocked(i Identity) *person {
	name := [2]string{i.Issuer, i.Subject}
	p := t.people[name]
	if p == nil || !equalIdentity(p.Identity, i) {
		p = &person{Identity: i}
		t.people[name] = p
	}
	p.sessions++
	return p
}

func (t *Table) releaseLocked(p *person) {
	name := [2]string{p.Issuer, p.Subject}
	if p.sessions--; p.sessions == 0 && t.people[name] == p {
		delete(t.people, name)
	}
}

func (t *Table) bindLocked(e *entry) {
	for _, a := range e.bindAddrs {
		if t.byAddr[a] == nil {
			t.byAddr[a] = map[*entry]bool{}
		}
		t.byAddr[a][e] = true
	}
}

func (t *Table) unbindLocked(e *entry) {
	for _, a := range e.bindAddrs {
		delete(t.byAddr[a], e)
		if len(t.byAddr[a]) == 0 {
			delete(t.byAddr, a)
		}
	}
}

func (t *Table) setAlarmLocked() {
	var next Instant
	if len(t.queue) > 0 {
		next = t.queue[0].check
	}
	if next != t.armed {
		t.armed = next
		t.cfg.Alarm.Set(next)
	}
}

// forgetAtLocked is when an ended entry goes: never before the deadline it had, so that no late message
// brings it back.
func (t *Table) forgetAtLocked(e *entry) Instant {
	return max(e.until, t.cfg.Clock.Boot()).Add(t.cfg.Retention)
}

func (t *Table) save(s Session) error {
	if t.cfg.Store == nil {
		return nil
	}
	return t.cfg.Store.Save(s)
}

func (t *Table) forget(id ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byID[id]; e != nil {
		t.removeLocked(e)
	}
}

func (t *Table) removeLocked(e *entry) {
	delete(t.byID, e.id)
	if t.byKey[e.key] == e {
		delete(t.byKey, e.key)
	}
	if e.ended == nil {
		t.live--
		t.unbindLocked(e)
	}
	t.releaseLocked(e.identity)
	heap.Remove(&t.queue, e.index)
	t.setAlarmLocked()
}
