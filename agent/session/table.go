// SPDX-License-Identifier: Apache-2.0

package session

import (
	"container/heap"
	"fmt"
	"net/netip"
	"sync"
	"time"
	"unique"
)

// Store keeps sessions across restarts. It is called without the table's lock, concurrently.
// A later call for a session must win over an earlier one, and an end over everything.
type Store interface {
	// Save returns when the sessions are durable; one call, one write to the disk.
	Save(...Session) error
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
	// OnSupersede is called, as OnEnd is and before it, when a session takes over the connections of
	// another, and with them its number.
	OnSupersede func(Takeover)
	// OnIdentity is called, as OnEnd is, when a provider says other things of a session's user than before.
	OnIdentity func(Session)
	// OnChange is called, as OnEnd is, with what other nodes must learn of: sessions that were created
	// or ended here, and activity. Not with ends that every node comes to by itself, by the clock.
	OnChange func(Record)
	// OnValidate is called, as OnChange is, with a session whose identity was validated here.
	OnValidate func(Record)
	// Timebase translates what other nodes say; optional: without it the table knows this host alone.
	Timebase Timebase
	// Watermarks keeps watermarks as Store keeps sessions; optional.
	Watermarks WatermarkStore
	// MaxSessions and MaxConns limit live sessions, and connections of one session; zero means
	// the defaults.
	MaxSessions, MaxConns int
	// Retention is how long an ended session is remembered, so that its user is told why.
	Retention time.Duration
}

// WatermarkStore keeps watermarks across restarts.
type WatermarkStore interface {
	SaveWatermark(Watermark) error // returns when it is durable
	// DeleteWatermarkSoon does not block, and is called under the table's lock; a crash may lose it.
	DeleteWatermarkSoon(Watermark)
}

// MaxLifetime is the longest time that a session may last: so long, what it is ended by is remembered.
const MaxLifetime = 366 * 24 * time.Hour

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

// Takeover is a session that has just taken over the connections of another.
type Takeover struct {
	Old, New Session
	Number   uint64 // New's from now on, and Old's until now
	Conns    []*Connection
}

// Table holds the sessions of this host, their live connections and their deadlines. It is safe
// for concurrent use. Run must be running for deadlines to fire.
type Table struct {
	cfg TableConfig

	mu       sync.Mutex
	byID     map[ID]*entry
	byKey    map[Key]*entry
	byAddr   map[netip.Addr]map[*entry]bool
	people   map[[2]string]*person // by issuer and subject
	queue    queue
	armed    Instant // what the alarm is set to
	live     int
	attached int // connections
	number   uint64

	self         Origin
	grace        time.Duration // beyond the idle timeout: see SetIdleGrace
	digest       Digest
	leaves       [1 << 16]*entry // the first of each leaf of digest: see entry.next
	supersededBy map[ID]*entry
	marks        marks
	looks        looks
	byCredential map[Credential]*entry
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
	if cfg.Timebase == nil {
		cfg.Timebase = thisHost{}
	}
	return &Table{
		cfg:          cfg,
		byID:         map[ID]*entry{},
		byKey:        map[Key]*entry{},
		byAddr:       map[netip.Addr]map[*entry]bool{},
		people:       map[[2]string]*person{},
		number:       FirstNumber(cfg.Clock.Boot()),
		self:         cfg.Timebase.Self(),
		supersededBy: map[ID]*entry{},
		marks:        marks{byName: map[markName][]*mark{}},
		byCredential: map[Credential]*entry{},
	}, nil
}

// FirstNumber is where session numbers start that are given out from now on: the microseconds since
// boot. They go up by one a session, so a later process of the same boot starts above every number
// that an earlier one can have given out.
func FirstNumber(now Instant) uint64 { return uint64(now) / uint64(time.Microsecond) }

// Create adds a session that starts now, durably, and returns it. It sets all instants from absolute
// and idle (zero idle: never). The session's ID may be preset, and Born, to when its user was authenticated: what
// ended all sessions of that user since then refuses this one, and its time runs from then. It may be before this host's boot.
// Validated, if it is set, is when the provider last said yes, between Born and now. With Supersedes, the session
// takes over the connections of that one, which must live and be of the same key and identity. Returns
// ErrTooMany when the table is full, ErrKeyInUse when the key has another live session, or the
// store's error; nothing is added then.
func (t *Table) Create(s Session, absolute time.Duration) (Session, error) {
	if s.Key.IsZero() || s.Identity.Subject == "" || absolute <= 0 {
		return Session{}, fmt.Errorf("create session: key, subject and a positive absolute timeout are required")
	}
	if absolute > MaxLifetime {
		return Session{}, fmt.Errorf("create session: %v is too long, a session lasts at most %v", absolute, MaxLifetime)
	}
	now, wall := t.cfg.Clock.Boot(), t.cfg.Clock.Wall()
	if s.ID.IsZero() {
		s.ID = NewID()
	}
	if born := Instant(s.Born); born == 0 || born > now {
		s.Born = OriginTime(now)
	}
	since := now.Sub(Instant(s.Born))
	s.Created, s.Deadline, s.Until = wall, wall.Add(absolute-since), now.Add(absolute-since)
	s.Origin, s.Ends, s.Published = t.cfg.Timebase.Self(), OriginTime(s.Until), 0
	if s.Validated != 0 {
		s.Validated = max(s.Born, min(s.Validated, OriginTime(now)))
	}
	s.LastActive, s.IdleUntil, s.Ended = now, 0, nil
	after, err := t.add(&s)
	if err != nil {
		return Session{}, fmt.Errorf("create session: %w", err)
	}
	if err := t.save(s); err != nil {
		t.forget(s.ID)
		return Session{}, fmt.Errorf("create session: %w", err)
	}
	for _, old := range after.finish(t) {
		t.saveSoon(old) // a restart would come to the same by itself: see Restore
	}
	t.changed(s.ID)
	return t.byIDAsItIs(s.ID), nil
}

// Restore adds a session that the store knew. Sessions whose end has passed are added as ended, and so is
// what another session has taken the place of. Call it before Run.
func (t *Table) Restore(s Session) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[s.ID] != nil {
		return fmt.Errorf("session %s: %w", s.ID.Short(), ErrExists)
	}
	if s.Ended == nil && t.live >= t.cfg.MaxSessions {
		return fmt.Errorf("%w sessions: the limit is %d", ErrTooMany, t.cfg.MaxSessions)
	}
	if next := t.inPlaceOfLocked(&s); next != nil && s.Ended == nil {
		end := next.supersedingEnd()
		s.Ended = &end
		t.saveSoon(s)
	}
	rival := t.byKey[s.Key]
	for _, over := range t.settleLocked(t.insertLocked(s), rival, &aftermath{}) { // nobody has connections yet
		t.saveSoon(over.Session)
	}
	return nil
}

// add adds a session that was created here. What is left to do when it is durable is returned.
func (t *Table) add(s *Session) (*aftermath, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[s.ID] != nil {
		return nil, fmt.Errorf("session %s: %w", s.ID.Short(), ErrExists)
	}
	if t.live >= t.cfg.MaxSessions && s.Supersedes.IsZero() { // else it makes its own room
		return nil, fmt.Errorf("%w sessions: the limit is %d", ErrTooMany, t.cfg.MaxSessions)
	}
	if t.credentialUsedLocked(s) {
		return nil, ErrCredentialUsed
	}
	if w, ok := t.belowLocked(s); ok {
		err := ErrWatermark
		if s.stale(&w) {
			err = ErrNotFresh
		}
		return nil, fmt.Errorf("%w: %s", err, w.End.Reason)
	}
	if old := t.byKey[s.Key]; old != nil && old.ended == nil && old.id != s.Supersedes {
		return nil, fmt.Errorf("client key: %w (session %s)", ErrKeyInUse, old.id.Short())
	}
	if old := t.byID[s.Supersedes]; !s.Supersedes.IsZero() {
		if old == nil || old.ended != nil || old.key != s.Key || !sameIdentity(old.identity.Identity, s.Identity) {
			return nil, fmt.Errorf("session %s cannot be followed: %w", s.Supersedes.Short(), ErrNotFound)
		}
		s.Generation = old.generation + 1
	}
	t.insertLocked(*s)
	return &aftermath{followed: s.Supersedes}, nil
}

// insertLocked adds a session as it is.
func (t *Table) insertLocked(s Session) *entry {
	t.number++
	e := &entry{
		id: s.ID, key: s.Key, made: unique.Make(provenance{s.Origin, s.Method}), created: unixNano(s.Created), deadline: unixNano(s.Deadline),
		idle: s.IdleTimeout, details: newDetails(&s), born: s.Born, ends: s.Ends, published: s.Published,
		until: s.Until, lastActive: s.LastActive, ended: s.Ended, number: t.number,
	}
	now := t.cfg.Clock.Boot()
	e.bound = e.until - drift(now)
	t.byID[e.id] = e
	leaf := &t.leaves[LeafOf(e.id)]
	e.next, *leaf = *leaf, e
	if !e.key.IsZero() {
		e.identity = t.internLocked(s.Identity)
		if old := t.byKey[e.key]; old == nil || e.foundBefore(old) {
			t.byKey[e.key] = e
		}
	}
	t.noteCredentialLocked(e)
	if !s.Supersedes.IsZero() {
		t.supersededBy[s.Supersedes] = e
	}
	if e.until > now {
		t.toggleLocked(e)
	}
	if e.ended != nil {
		e.check = t.endedCheckLocked(e)
	} else {
		t.live++
		t.bindLocked(e)
		e.check = t.nextCheckLocked(e, now)
	}
	heap.Push(&t.queue, e)
	t.setAlarmLocked()
	return e
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

func (t *Table) save(list ...Session) error {
	if t.cfg.Store == nil || len(list) == 0 {
		return nil
	}
	return t.cfg.Store.Save(list...)
}

func (t *Table) byIDAsItIs(id ID) Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byID[id]; e != nil {
		return t.sessionLocked(e)
	}
	return Session{}
}

func (t *Table) forget(id ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byID[id]; e != nil {
		t.removeLocked(e)
	}
}

func (t *Table) removeLocked(e *entry) {
	if e.summed {
		t.toggleLocked(e)
	}
	t.attached -= len(e.conns)
	delete(t.byID, e.id)
	at := &t.leaves[LeafOf(e.id)]
	for *at != e {
		at = &(*at).next
	}
	*at = e.next
	if t.byKey[e.key] == e {
		delete(t.byKey, e.key)
	}
	if t.byCredential[e.credential] == e {
		delete(t.byCredential, e.credential)
	}
	if t.supersededBy[e.supersedes] == e {
		delete(t.supersededBy, e.supersedes)
	}
	if e.ended == nil {
		t.live--
		t.unbindLocked(e)
	}
	if e.identity != nil {
		t.releaseLocked(e.identity)
	}
	heap.Remove(&t.queue, int(e.index))
	t.setAlarmLocked()
}
