// SPDX-License-Identifier: Apache-2.0

package session

import (
	"testing"
	"testing/synctest"
	"time"
)

// aliveEverywhere fails if a node refuses the session.
func (c *cluster) aliveEverywhere(t *testing.T, id ID) {
	t.Helper()
	synctest.Wait()
	for i, table := range c.tables {
		if _, err := table.ByID(id); err != nil {
			t.Fatalf("cut on node %d while it was used: %v", i, err)
		}
	}
}

// A fault it keeps out: activity of connections that were gone by the last quarter of the idle timeout was
// never published, and the other nodes ended sessions that were used for one command at a time.
func TestActivityOfShortConnectionsIsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 100*time.Millisecond)
		s := c.tables[0].create(t, 1, 48*time.Hour, 10*time.Minute)
		c.settle()
		for range 50 {
			time.Sleep(4 * time.Minute)
			conn := NewConnection(s.ID)
			if _, _, err := c.tables[2].Attach(conn); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			c.tables[2].Detach(conn)
			c.aliveEverywhere(t, s.ID)
		}
		if n := len(c.messages()); n > 50 {
			t.Errorf("%d messages for 50 uses: activity goes out at once", n)
		}
		time.Sleep(11 * time.Minute)
		c.settle()
		c.ended(t, s.ID, ReasonIdle)
	})
}

// A fault it keeps out: who connected within the last quarter was not heard of elsewhere, and cut.
func TestActivityWithinTheLastQuarterIsPublished(t *testing.T) {
	for name, use := range map[string]func(c *cluster, conn *Connection){
		"an attach": func(*cluster, *Connection) {},
		"a request": func(_ *cluster, conn *Connection) { time.Sleep(30 * time.Second); conn.Activity.NoteClient(1) },
		"a detach": func(c *cluster, conn *Connection) {
			conn.Activity.NoteClient(1)
			time.Sleep(30 * time.Second)
			c.tables[2].Detach(conn)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3, 100*time.Millisecond)
				s := c.tables[0].create(t, 1, 48*time.Hour, 10*time.Minute)
				c.settle()
				time.Sleep(9 * time.Minute)
				conn := NewConnection(s.ID)
				if _, _, err := c.tables[2].Attach(conn); err != nil {
					t.Fatal(err)
				}
				use(c, conn)
				time.Sleep(9 * time.Minute)
				c.aliveEverywhere(t, s.ID)
			})
		})
	}
}

// A fault it keeps out: a node that had been suspended for the idle timeout took every session to be idle, and
// its word ended those that were in use elsewhere.
func TestNodeThatWasAwayEndsNothingInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 100*time.Millisecond)
		used, idle := c.tables[0].create(t, 1, 48*time.Hour, 10*time.Minute), c.tables[0].create(t, 2, 48*time.Hour, 10*time.Minute)
		c.settle()
		conn := NewConnection(used.ID)
		if _, _, err := c.tables[2].Attach(conn); err != nil {
			t.Fatal(err)
		}
		conn.Activity.NoteClient(1) // a request that takes hours: active all the time
		old := map[ID]Session{}
		for _, id := range []ID{used.ID, idle.ID} {
			old[id], _ = c.tables[1].store.get(id)
		}
		time.Sleep(time.Hour)
		// Node 1 starts again with what it knew an hour ago.
		back := newHarness(t, func(cfg *TableConfig) {
			cfg.Clock, cfg.Timebase, cfg.OnChange = c.tables[1].cfg.Clock, c.tables[1].cfg.Timebase, func(Record) {}
		})
		back.SetIdleGrace(time.Second)
		for _, s := range old {
			if err := back.Restore(s); err != nil {
				t.Fatal(err)
			}
		}
		back.fire()
		time.Sleep(catchUp / 2)
		if _, err := back.ByID(used.ID); err == nil {
			t.Error("it lets somebody in, for all that it knows")
		}
		for _, r := range back.Records([]ID{used.ID, idle.ID}) {
			if r.Revoked != nil {
				t.Errorf("it revokes what it has not heard of for an hour: %+v", r.Revoked)
			}
		}
		if _, err := back.Merge(c.tables[2].Records([]ID{used.ID})); err != nil {
			t.Fatal(err)
		}
		if _, err := back.ByID(used.ID); err != nil {
			t.Errorf("heard of, and still refused: %v", err)
		}
		time.Sleep(catchUp)
		synctest.Wait()
		if r := back.Records([]ID{idle.ID}); len(r) != 1 || r[0].Revoked == nil {
			t.Errorf("what is idle everywhere has not ended: %+v", r)
		}
	})
}

// A fault it keeps out: what a session did on a node shortly before that was stopped, no other node heard of.
func TestActivityIsToldBeforeAGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, 10*time.Millisecond)
		s := c.tables[0].create(t, 1, time.Hour, 10*time.Minute)
		conn := c.tables[0].attach(t, s)
		time.Sleep(5 * time.Minute)
		conn.Activity.NoteClient(1)
		conn.Activity.NoteUpstream(1)
		c.tables[0].Detach(conn)
		c.tables[0].TellActivity()
		c.settle()
		c.mu.Lock()
		c.cut[0] = true
		c.mu.Unlock()
		time.Sleep(9 * time.Minute)
		if _, err := c.tables[1].ByID(s.ID); err != nil {
			t.Errorf("nine minutes after its last use: %v", err)
		}
		if saved, _ := c.tables[0].store.get(s.ID); saved.Published == 0 {
			t.Error("it is not saved")
		}
	})
}
