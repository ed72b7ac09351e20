// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// bubbleClock reads the fake clock of a synctest bubble; boot time starts at an hour.
type bubbleClock struct {
	start  time.Time
	offset time.Duration // steps the wall clock
}

func (c *bubbleClock) Boot() Instant   { return Instant(time.Hour + time.Since(c.start)) }
func (c *bubbleClock) Coarse() Instant { return c.Boot() }
func (c *bubbleClock) Wall() time.Time { return time.Now().Add(c.offset) }

type memoryStore struct {
	mu    sync.Mutex
	saved map[ID]Session
	fail  error
}

func (m *memoryStore) Save(list ...Session) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, s := range list {
		if old, ok := m.saved[s.ID]; !ok || old.Ended == nil {
			m.saved[s.ID] = s
		}
	}
	return nil
}
func (m *memoryStore) SaveSoon(s Session) { _ = m.Save(s) } // the test looks at what was saved
func (m *memoryStore) DeleteSoon(id ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.saved, id)
}

func (m *memoryStore) get(id ID) (Session, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.saved[id]
	return s, ok
}

type harness struct {
	*Table
	clock *bubbleClock
	store *memoryStore

	mu    sync.Mutex
	ended []Ending
	late  []time.Duration
	moved int
}

// newHarness runs a table in the caller's bubble until the test ends.
func newHarness(t *testing.T, change ...func(*TableConfig)) *harness {
	t.Helper()
	h := &harness{clock: &bubbleClock{start: time.Now()}, store: &memoryStore{saved: map[ID]Session{}}}
	cfg := TableConfig{Clock: h.clock, Store: h.store,
		OnEnd: func(e Ending) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.ended = append(h.ended, e)
			h.late = append(h.late, h.clock.Boot().Sub(e.Session.EndsAt()))
		},
		OnMove: func(ID, uint64) { h.mu.Lock(); h.moved++; h.mu.Unlock() },
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if h.Table, err = NewTable(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return h
}

func (h *harness) endings() []Ending {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Ending(nil), h.ended...)
}

func (h *harness) create(t *testing.T, n byte, absolute, idle time.Duration) Session {
	t.Helper()
	s, err := h.Create(Session{Key: Key{n}, Identity: Identity{Issuer: "https://idp", Subject: fmt.Sprint("user", n)}, IdleTimeout: idle}, absolute)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (h *harness) attach(t *testing.T, s Session) *Connection {
	t.Helper()
	c := NewConnection(s.ID)
	c.Service = "db"
	if _, _, err := h.Attach(c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAbsoluteDeadlineFiresAtItsInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		s := h.create(t, 1, time.Minute, 0)
		c := h.attach(t, s)
		time.Sleep(time.Minute - 1)
		synctest.Wait()
		if got, err := h.ByKey(s.Key); err != nil || got.ID != s.ID {
			t.Fatalf("before the deadline: %v, %v", got, err)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		ended := h.endings()
		if len(ended) != 1 || ended[0].Session.Ended.Reason != ReasonAbsolute || len(ended[0].Conns) != 1 || ended[0].Conns[0] != c {
			t.Fatalf("endings: %+v", ended)
		}
		var over *EndedError
		if _, err := h.ByKey(s.Key); !errors.As(err, &over) || over.End.Reason != ReasonAbsolute {
			t.Fatalf("after the deadline: %v", err)
		}
		if _, _, err := h.Attach(NewConnection(s.ID)); !errors.As(err, &over) {
			t.Fatalf("attach after the end: %v", err)
		}
	})
}

// A table whose loop does not run, or is late, still lets nobody in past a deadline.
func TestDeadlineHoldsWithoutTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := &bubbleClock{start: time.Now()}
		table, err := NewTable(TableConfig{Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		s, err := table.Create(Session{Key: Key{1}, Identity: Identity{Subject: "u"}}, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		var over *EndedError
		if _, err := table.ByKey(s.Key); !errors.As(err, &over) {
			t.Fatalf("ByKey past the deadline: %v", err)
		}
	})
}

func TestIdle(t *testing.T) {
	const idle = 40 * time.Second
	tests := []struct {
		name string
		both bool
		do   func(c *Connection, h *harness)
		want time.Duration // from creation to the end
	}{
		{"nothing at all", false, func(*Connection, *harness) {}, idle},
		{"one request and its answer at once", false, func(c *Connection, h *harness) {
			time.Sleep(10 * time.Second)
			c.Activity.NoteClient(1)
			c.Activity.NoteUpstream(1)
		}, 50 * time.Second},
		{"request without an answer is not idle", false, func(c *Connection, h *harness) {
			c.Activity.NoteClient(1)
			time.Sleep(5 * time.Minute)
			c.Activity.NoteUpstream(1)
		}, 5*time.Minute + idle},
		{"upstream chatter does not count by default", false, func(c *Connection, h *harness) {
			for range 100 {
				time.Sleep(time.Second)
				c.Activity.NoteUpstream(1)
			}
		}, idle},
		{"payload in the last instant renews", false, func(c *Connection, h *harness) {
			time.Sleep(idle - 1)
			c.Activity.NoteClient(1)
			c.Activity.NoteUpstream(1)
		}, idle - 1 + idle},
		{"upstream counts with both", true, func(c *Connection, h *harness) {
			time.Sleep(idle - 1)
			c.Activity.NoteUpstream(1)
		}, idle - 1 + idle},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t)
				s := h.create(t, 1, time.Hour, idle)
				c := NewConnection(s.ID)
				c.Activity.Both = tt.both
				var client Instant
				c.Activity.LastPayload = func(l Leg) Instant {
					if l == ClientLeg {
						return client
					}
					return 0
				}
				if _, _, err := h.Attach(c); err != nil {
					t.Fatal(err)
				}
				start := h.clock.Boot()
				tt.do(c, h)
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				ended := h.endings()
				if len(ended) != 1 || ended[0].Session.Ended.Reason != ReasonIdle {
					t.Fatalf("endings: %+v", ended)
				}
				if got := ended[0].Session.EndsAt().Sub(start); got != tt.want {
					t.Errorf("ended after %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// The idle timeout is the session's: activity on one connection keeps the others alive.
func TestIdleIsSessionWide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		s := h.create(t, 1, time.Hour, 10*time.Second)
		busy, quiet := h.attach(t, s), h.attach(t, s)
		for range 30 {
			time.Sleep(5 * time.Second)
			busy.Activity.NoteClient(1)
			busy.Activity.NoteUpstream(1)
		}
		synctest.Wait()
		if n := len(h.endings()); n != 0 {
			t.Fatalf("an active session was cut: %d endings", n)
		}
		h.Detach(busy)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if e := h.endings(); len(e) != 1 || len(e[0].Conns) != 1 || e[0].Conns[0] != quiet {
			t.Fatalf("endings: %+v", e)
		}
	})
}

func TestStoredTimestampsKeepASessionAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		s := h.create(t, 1, time.Hour, 20*time.Second)
		c := NewConnection(s.ID)
		c.Activity.LastPayload = func(Leg) Instant { return h.clock.Boot().Add(-5 * time.Second) }
		if _, _, err := h.Attach(c); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := len(h.endings()); n != 0 {
			t.Fatalf("a session whose socket shows payload 5 s ago was cut")
		}
	})
}

func TestEndIsFinalAndDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		s := h.create(t, 1, time.Minute, 0)
		c := h.attach(t, s)
		if _, err := h.End(s.ID, End{Reason: ReasonKilled, By: "root", Message: "lost laptop"}); err != nil {
			t.Fatal(err)
		}
		var over *EndedError
		if _, err := h.End(s.ID, End{Reason: ReasonLogout}); !errors.As(err, &over) || over.End.Reason != ReasonKilled {
			t.Fatalf("second end: %v", err)
		}
		if saved, _ := h.store.get(s.ID); saved.Ended == nil || saved.Ended.Message != "lost laptop" {
			t.Fatalf("saved: %+v", saved)
		}
		if end, last := h.Detach(c); end == nil || !last {
			t.Fatalf("detach: %v, %v", end, last)
		}
		h.Touch(s.ID, h.clock.Boot())
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(h.endings()); n != 1 {
			t.Fatalf("%d endings, want 1: the deadline fired on an ended session", n)
		}
		// A restart restores it as ended.
		again, err := NewTable(TableConfig{Clock: h.clock})
		if err != nil {
			t.Fatal(err)
		}
		saved, _ := h.store.get(s.ID)
		if err := again.Restore(saved); err != nil {
			t.Fatal(err)
		}
		if _, err := again.ByKey(s.Key); !errors.As(err, &over) || over.End.Reason != ReasonKilled {
			t.Fatalf("after restart: %v", err)
		}
		time.Sleep(DefaultRetention)
		synctest.Wait()
		if _, err := h.ByKey(s.Key); !errors.Is(err, ErrUnknownKey) {
			t.Fatalf("after retention: %v", err)
		}
		if saved, ok := h.store.get(s.ID); ok {
			t.Fatalf("still stored after retention: %+v", saved)
		}
	})
}

// Stepping the wall clock changes no deadline.
func TestWallClockStepsChangeNothing(t *testing.T) {
	for _, step := range []time.Duration{-48 * time.Hour, 48 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t)
			s := h.create(t, 1, time.Minute, 0)
			h.clock.offset = step
			time.Sleep(time.Minute - 1)
			synctest.Wait()
			if _, err := h.ByKey(s.Key); err != nil {
				t.Fatalf("step %v: ended early: %v", step, err)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if len(h.endings()) != 1 || h.late[0] != 0 {
				t.Fatalf("step %v: endings %v late %v", step, h.endings(), h.late)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *TableConfig) { c.MaxSessions = 2; c.MaxConns = 1 })
		s := h.create(t, 1, time.Minute, 0)
		if _, err := h.Create(Session{Key: Key{1}, Identity: Identity{Subject: "other"}}, time.Minute); !errors.Is(err, ErrKeyInUse) {
			t.Errorf("key in use: %v", err)
		}
		h.create(t, 2, time.Minute, 0)
		if _, err := h.Create(Session{Key: Key{3}, Identity: Identity{Subject: "u"}}, time.Minute); !errors.Is(err, ErrTooMany) {
			t.Errorf("full table: %v", err)
		}
		h.attach(t, s)
		if _, _, err := h.Attach(NewConnection(s.ID)); !errors.Is(err, ErrTooMany) {
			t.Errorf("connections: %v", err)
		}
		if _, err := h.End(s.ID, End{Reason: ReasonLogout}); err != nil {
			t.Fatal(err)
		}
		h.store.fail = errors.New("no space left on device")
		if _, err := h.Create(Session{Key: Key{4}, Identity: Identity{Subject: "u"}}, time.Minute); err == nil {
			t.Error("a session that could not be made durable was created")
		}
		if _, err := h.ByKey(Key{4}); !errors.Is(err, ErrUnknownKey) {
			t.Errorf("it is there all the same: %v", err)
		}
		h.store.fail = nil
		if _, err := h.Create(Session{Key: Key{1}, Identity: Identity{Subject: "again"}}, time.Minute); err != nil {
			t.Errorf("signing in again with the key of an ended session: %v", err)
		}
	})
}

func TestBoundAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		a := netip.MustParseAddr("10.1.2.3")
		s, err := h.Create(Session{Key: Key{1}, Identity: Identity{Subject: "u"}, BindAddrs: []netip.Addr{a}}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := h.ByAddr(netip.MustParseAddr("::ffff:10.1.2.3")); err != nil || got.ID != s.ID {
			t.Fatalf("bound address: %v, %v", got.ID, err)
		}
		if _, err := h.ByAddr(netip.MustParseAddr("10.1.2.4")); !errors.Is(err, ErrUnknownKey) {
			t.Fatalf("other address: %v", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, err := h.ByAddr(a); err == nil {
			t.Fatal("address still admitted after the end")
		}
	})
}

func TestSelect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		a := h.create(t, 1, time.Minute, 0)
		b := h.create(t, 2, time.Minute, 0)
		h.attach(t, b)
		tests := []struct {
			name string
			sel  Selector
			want []ID
		}{
			{"zero selects nothing", Selector{}, nil},
			{"all", Selector{All: true}, []ID{a.ID, b.ID}},
			{"id prefix", Selector{ID: a.ID.Short()}, []ID{a.ID}},
			{"whole id", Selector{ID: strings.ToUpper(a.ID.String())}, []ID{a.ID}},
			{"whole id of none", Selector{ID: NewID().String()}, nil},
			{"whole id and another subject", Selector{ID: a.ID.String(), Subject: "user2"}, nil},
			{"subject", Selector{Subject: "user2"}, []ID{b.ID}},
			{"service", Selector{Service: "db"}, []ID{b.ID}},
			{"both must match", Selector{Subject: "user1", Service: "db"}, nil},
			{"where", Selector{Where: func(s Session, c []*Connection) bool { return len(c) == 0 }}, []ID{a.ID}},
		}
		for _, tt := range tests {
			got := map[ID]bool{}
			for _, e := range h.Select(tt.sel, false) {
				got[e.Session.ID] = true
			}
			if len(got) != len(tt.want) {
				t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
			}
			for _, id := range tt.want {
				if !got[id] {
					t.Errorf("%s: %v is missing", tt.name, id)
				}
			}
		}
	})
}

// A kill of one session must not cost more the more sessions there are.
func TestSelectingOneLooksAtOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		one := h.create(t, 255, time.Minute, 0)
		for n := range byte(200) {
			h.create(t, n+1, time.Minute, 0)
		}
		for name, look := range map[string]func(){
			"Select": func() { h.Select(Selector{ID: one.ID.String()}, false) },
			"Get":    func() { _, _, _ = h.Get(one.ID.String()) },
		} {
			if n := testing.AllocsPerRun(10, look); n > 20 { // each name that is looked at is allocated
				t.Errorf("%s allocates %.0f times", name, n)
			}
		}
	})
}

func TestIDText(t *testing.T) {
	id := NewID()
	back, err := ParseID(id.String())
	if err != nil || back != id {
		t.Fatalf("%v, %v", back, err)
	}
	for _, bad := range []string{"", "0", id.String() + "0", "i" + id.String()[1:]} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) accepted", bad)
		}
	}
}

func TestCredentialText(t *testing.T) {
	c := Credential{1, 2, 0xff}
	var back Credential
	if text, err := c.MarshalText(); err != nil || back.UnmarshalText(text) != nil || back != c {
		t.Fatalf("%v, want %v", back, c)
	}
	for _, bad := range []string{"", "0102", c.String() + "00", "x" + c.String()[1:]} {
		if back.UnmarshalText([]byte(bad)) == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}
