// SPDX-License-Identifier: Apache-2.0

package session

import (
	"testing"
	"testing/synctest"
	"time"
)

// A fault it keeps out: the end of a superseded session was not stored, and the session lived again after a restart,
// where its key found it instead of the new one.
func TestSupersededStaysSoAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		old := h.create(t, 1, time.Hour, 0)
		live, _ := h.store.get(old.ID)
		next, err := h.Create(Session{Key: old.Key, Identity: old.Identity, Supersedes: old.ID}, 2*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if saved, _ := h.store.get(old.ID); saved.Ended == nil {
			t.Error("its end is not stored")
		}
		saved, _ := h.store.get(next.ID)
		for _, order := range [][]Session{{live, saved}, {saved, live}} { // as after a crash before the end was written
			again := newHarness(t)
			for _, s := range order {
				if err := again.Restore(s); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := again.ByID(old.ID); ReasonOf(err) != ReasonSuperseded {
				t.Errorf("the superseded session: %v", err)
			}
			if got, err := again.ByKey(old.Key); err != nil || got.ID != next.ID {
				t.Errorf("the key finds %s, %v", got.ID.Short(), err)
			}
			if s, _ := again.store.get(old.ID); s.Ended == nil {
				t.Error("the next restart would not know when the new session is forgotten")
			}
		}
	})
}

// A fault it keeps out: of two sessions of a key one was found by no key, and outlived a logout.
func TestKeyHasOneSessionOnAllNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 50*time.Millisecond)
		first, second := c.tables[0].create(t, 1, time.Hour, 0), c.tables[1].create(t, 1, time.Hour, 0)
		conns := []*Connection{c.tables[0].attach(t, first), c.tables[1].attach(t, second)}
		c.settle()
		c.equal(t)
		s, err := c.tables[2].ByKey(first.Key)
		if err != nil {
			t.Fatal(err)
		}
		for i, table := range c.tables {
			if got, err := table.ByKey(first.Key); err != nil || got.ID != s.ID || table.Count() != 1 {
				t.Errorf("node %d: the key finds %s of %d, %v", i, got.ID.Short(), table.Count(), err)
			}
		}
		for i, conn := range conns {
			if conn.Session() != s.ID {
				t.Errorf("the connection on node %d was left with %s", i, conn.Session().Short())
			}
		}
		if _, err := c.tables[2].End(s.ID, End{Reason: ReasonLogout}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		for i, table := range c.tables {
			if n := table.Count(); n != 0 {
				t.Errorf("node %d: %d sessions live after the logout", i, n)
			}
		}
		c.equal(t)
	})
}

// A key that two people have at once: the connections of the one that loses it do not go over.
func TestKeyOfTwoPeopleMovesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, clock := newMistaken(t)
		mine := h.create(t, 1, time.Hour, 0)
		conn := h.attach(t, mine)
		r := recordOf(clock, 1, time.Hour, 0)
		r.Created, r.Identity.Subject = mine.Created.Add(time.Second), "somebody else"
		m := h.merge(t, r)
		if len(m.Ended) != 1 || m.Ended[0].Session.ID != mine.ID || len(m.Ended[0].Conns) != 1 || conn.Session() != mine.ID {
			t.Errorf("%+v, connection of %s", m.Ended, conn.Session().Short())
		}
		if got, err := h.ByKey(mine.Key); err != nil || got.ID != r.ID {
			t.Errorf("the key finds %s, %v", got.ID.Short(), err)
		}
	})
}

// A fault it keeps out: nobody could extend a session while the table was full.
func TestExtendingNeedsNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, clock := newMistaken(t, func(cfg *TableConfig) { cfg.MaxSessions = 1 })
		old := h.create(t, 1, time.Hour, 0)
		next, err := h.Create(Session{Key: old.Key, Identity: old.Identity, Supersedes: old.ID}, 2*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		r := recordOf(clock, 1, time.Hour, 0)
		r.Supersedes, r.Created = next.ID, next.Created.Add(time.Second)
		if m := h.merge(t, r); m.Refused != 0 || h.Count() != 1 {
			t.Errorf("elsewhere: %d refused, %d live", m.Refused, h.Count())
		}
		if m := h.merge(t, recordOf(clock, 2, time.Hour, 0)); m.Refused != 1 {
			t.Errorf("a full table takes more: %+v", m)
		}
	})
}

// A fault it keeps out: the clock on the wall of the node that extended a session was behind that of the node that
// created it, and where word of the extension came before word of the session between them, the extension ended.
func TestExtensionIsLaterByWhateverClock(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t)
			chain := []Session{h.create(t, 1, time.Hour, 0)}
			for range 2 {
				s, err := h.Create(Session{Key: chain[0].Key, Identity: chain[0].Identity, Supersedes: chain[len(chain)-1].ID}, time.Hour)
				if err != nil {
					t.Fatal(err)
				}
				chain = append(chain, s)
			}
			there, _, clock := newMistaken(t)
			for _, i := range order {
				r := recordOf(clock, byte(i+1), time.Hour, 0)
				r.ID, r.Key, r.Identity, r.Supersedes, r.Generation = chain[i].ID, chain[0].Key, chain[0].Identity, chain[i].Supersedes, chain[i].Generation
				r.Created = chain[0].Created.Add(-time.Duration(i) * time.Hour)
				there.merge(t, r)
			}
			if s, err := there.ByKey(chain[0].Key); err != nil || s.ID != chain[2].ID || there.Count() != 1 {
				t.Errorf("in the order %v the key finds %s of %d: %v", order, s.ID.Short(), there.Count(), err)
			}
		})
	}
}
