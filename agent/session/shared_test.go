// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// driftClock is the clock of a host that booted at another time, runs fast or slow, and has a wrong wall clock.
type driftClock struct {
	start time.Time
	boot  time.Duration // at the start
	ppm   int64
	wall  time.Duration
}

func (c *driftClock) Boot() Instant {
	d := time.Since(c.start)
	return Instant(c.boot + d + d*time.Duration(c.ppm)/1_000_000)
}
func (c *driftClock) Coarse() Instant { return c.Boot() }
func (c *driftClock) Wall() time.Time { return time.Now().Add(c.wall) }

// knowing is a Timebase that has compared the clocks a moment ago.
type knowing struct {
	self   string
	clocks map[string]*driftClock
}

func (k knowing) Self() Origin { return Origin{Node: k.self, Boot: 1} }

func (k knowing) Local(o Origin, t OriginTime) (Instant, bool) {
	theirs, ok := k.clocks[o.Node]
	if !ok {
		return 0, false
	}
	return k.clocks[k.self].Boot() + Instant(t) - theirs.Boot(), true
}

func (k knowing) Remote(o Origin, t Instant) (OriginTime, bool) {
	theirs, ok := k.clocks[o.Node]
	if !ok {
		return 0, false
	}
	return OriginTime(theirs.Boot() + t - k.clocks[k.self].Boot()), true
}

// cluster is tables that tell each other of changes, late, twice and in any order.
type cluster struct {
	tables []*harness
	names  []string
	delay  time.Duration // of a message, at most
	wait   sync.WaitGroup

	mu      sync.Mutex
	rng     *rand.Rand
	history []Record // of all messages
	cut     map[int]bool
}

func newCluster(t *testing.T, n int, delay time.Duration) *cluster {
	t.Helper()
	c := &cluster{delay: delay, rng: rand.New(rand.NewPCG(7, uint64(n))), cut: map[int]bool{}}
	clocks := map[string]*driftClock{}
	for i := range n {
		name := fmt.Sprint("node", i)
		c.names = append(c.names, name)
		clocks[name] = &driftClock{start: time.Now(), boot: time.Duration(1+i*i) * time.Hour, ppm: int64(100 * (i%3 - 1)), wall: time.Duration(i-1) * 90 * time.Minute}
	}
	for i, name := range c.names {
		c.tables = append(c.tables, newHarness(t, func(cfg *TableConfig) {
			cfg.Clock = clocks[name]
			cfg.Timebase = knowing{name, clocks}
			cfg.OnChange = func(r Record) { c.tell(i, r) }
		}))
		c.tables[i].SetIdleGrace(time.Second)
	}
	t.Cleanup(c.wait.Wait)
	return c
}

// tell sends a record to all others, each perhaps twice.
func (c *cluster) tell(from int, r Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history = append(c.history, r)
	for to := range c.tables {
		if to == from {
			continue
		}
		for range 1 + c.rng.IntN(2) {
			c.send(from, to, r, time.Duration(c.rng.Int64N(int64(c.delay)+1)))
		}
	}
}

func (c *cluster) send(from, to int, r Record, after time.Duration) {
	c.wait.Go(func() {
		time.Sleep(after)
		c.mu.Lock()
		lost := c.cut[from] || c.cut[to]
		c.mu.Unlock()
		if !lost {
			_, _ = c.tables[to].Merge([]Record{r}) // the memory store takes everything
		}
	})
}

// messages returns all messages so far.
func (c *cluster) messages() []Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Record(nil), c.history...)
}

// settle waits for messages that are on their way.
func (c *cluster) settle() {
	time.Sleep(2 * c.delay)
	synctest.Wait()
}

func (c *cluster) equal(t *testing.T) {
	t.Helper()
	first := c.tables[0].Fold()
	for i, table := range c.tables {
		if table.Fold() != first {
			t.Errorf("node %d and node 0 know different things", i)
		}
	}
}

func (c *cluster) ended(t *testing.T, id ID, want Reason) {
	t.Helper()
	for i, table := range c.tables {
		var over *EndedError
		if _, err := table.ByID(id); !errors.As(err, &over) || over.End.Reason != want {
			t.Errorf("node %d: %v, want an end for %s", i, err, want)
		}
	}
}

func TestDeadlinesFireTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 20*time.Millisecond)
		var mu sync.Mutex
		fired := map[ID][]time.Time{}
		for _, table := range c.tables {
			table.cfg.OnEnd = func(e Ending) {
				mu.Lock()
				defer mu.Unlock()
				fired[e.Session.ID] = append(fired[e.Session.ID], time.Now())
			}
		}
		for i := range c.tables {
			c.tables[i].create(t, byte(i+1), 8*time.Hour, 0)
		}
		began := time.Now()
		time.Sleep(9 * time.Hour)
		mu.Lock()
		defer mu.Unlock()
		if len(fired) != 3 {
			t.Fatalf("%d sessions ended", len(fired))
		}
		for id, at := range fired {
			if len(at) != 3 {
				t.Fatalf("session %s ended on %d nodes", id.Short(), len(at))
			}
			for _, x := range at {
				if d := x.Sub(at[0]); d.Abs() > time.Millisecond {
					t.Errorf("ends %v apart, of clocks that drift 200 ppm apart for 8 h (5.8 s)", d)
				}
				if d := x.Sub(began) - 8*time.Hour; d.Abs() > 10*time.Second {
					t.Errorf("an end %v off: not a clock's drift", d)
				}
			}
		}
		c.equal(t)
	})
}

func TestRevocationBeforeTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 0)
		c.mu.Lock()
		c.cut[2] = true
		c.mu.Unlock()
		s := c.tables[0].create(t, 1, time.Hour, 0)
		c.settle()
		if _, err := c.tables[1].End(s.ID, End{Reason: ReasonKilled}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		// Node 2 gets the tombstone first, by another way, and then what is older.
		tomb := Record{ID: s.ID, Origin: s.Origin, Deadline: s.Ends, Revoked: &End{Reason: ReasonKilled}}
		full := c.messages()[0]
		for _, r := range []Record{tomb, full, full} {
			if m, err := c.tables[2].Merge([]Record{r}); err != nil || len(m.Ended) != 0 {
				t.Fatalf("%+v, %v", m, err)
			}
		}
		c.ended(t, s.ID, ReasonKilled)
		var over *EndedError
		if _, err := c.tables[2].ByKey(s.Key); !errors.As(err, &over) {
			t.Errorf("the key of a session that was revoked before it was heard of: %v", err)
		}
	})
}

// Nothing comes back: not while it is remembered, and not when it is forgotten.
func TestReplayAfterEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 10*time.Millisecond)
		killed, lived := c.tables[0].create(t, 1, time.Hour, 0), c.tables[1].create(t, 2, time.Hour, 0)
		c.settle()
		if _, err := c.tables[2].End(killed.ID, End{Reason: ReasonKilled}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		c.equal(t)
		for _, wait := range []time.Duration{0, 59 * time.Minute, time.Hour, 25 * time.Hour, 100 * time.Hour} {
			time.Sleep(wait)
			for _, r := range c.messages() {
				for i, table := range c.tables {
					if r.ID == killed.ID || wait >= time.Hour {
						if _, err := table.Merge([]Record{r}); err != nil {
							t.Fatal(err)
						}
						if s, err := table.ByID(r.ID); err == nil {
							t.Fatalf("after %v session %s lives on node %d", wait, s.ID.Short(), i)
						}
					}
				}
			}
		}
		for i, table := range c.tables {
			if n := len(table.byID); n != 0 {
				t.Errorf("node %d remembers %d sessions for ever, %v", i, n, lived.ID)
			}
		}
		c.equal(t)
	})
}

func TestWatermark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 0)
		old := c.tables[0].create(t, 1, time.Hour, 0)
		other := c.tables[0].create(t, 2, time.Hour, 0)
		unheard := c.messages()[0]
		time.Sleep(time.Second)
		w := Watermark{Subject: "user1", Origin: c.tables[1].cfg.Timebase.Self(), Before: OriginTime(c.tables[1].cfg.Clock.Boot()), End: End{Reason: ReasonWatermark, At: time.Unix(9, 0)}}
		time.Sleep(time.Second)
		for _, table := range c.tables {
			for want := range 2 { // the second time it is no news
				news, _, err := table.Raise(w)
				if err != nil || news != (want == 0) {
					t.Fatalf("news %v, %v", news, err)
				}
			}
		}
		c.settle()
		c.ended(t, old.ID, ReasonWatermark)
		if _, err := c.tables[2].ByID(other.ID); err != nil {
			t.Errorf("somebody else's session: %v", err)
		}
		unheard.ID, unheard.Key = ID{77}, Key{77} // another session of the same time, of which word comes late
		for _, table := range c.tables {
			if _, err := table.Merge([]Record{unheard}); err != nil {
				t.Fatal(err)
			}
		}
		c.ended(t, unheard.ID, ReasonWatermark)
		again := c.tables[2].create(t, 1, time.Hour, 0)
		c.settle()
		for _, table := range c.tables {
			if _, err := table.ByID(again.ID); err != nil {
				t.Errorf("who signs in after the watermark: %v", err)
			}
		}
		c.equal(t)
	})
}

// A takeover keeps connections and number, in whichever order word of the two sessions comes.
func TestTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 0)
		var mu sync.Mutex
		taken := map[int]Takeover{}
		for i, table := range c.tables {
			table.cfg.OnSupersede = func(o Takeover) { mu.Lock(); taken[i] = o; mu.Unlock() }
		}
		old := c.tables[0].create(t, 1, time.Hour, 0)
		c.settle()
		conns := make([]*Connection, len(c.tables))
		numbers := make([]uint64, len(c.tables))
		for i, table := range c.tables {
			conns[i] = NewConnection(old.ID)
			var err error
			if numbers[i], _, err = table.Attach(conns[i]); err != nil {
				t.Fatal(err)
			}
		}
		next, err := c.tables[1].Create(Session{Key: old.Key, Identity: old.Identity, Supersedes: old.ID}, 2*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		c.settle()
		c.ended(t, old.ID, ReasonSuperseded)
		for i, table := range c.tables {
			if o := taken[i]; o.New.ID != next.ID || o.Number != numbers[i] || len(o.Conns) != 1 || conns[i].Session() != next.ID {
				t.Errorf("node %d: %+v, connection of %s", i, o, conns[i].Session().Short())
			}
			if got, err := table.ByKey(old.Key); err != nil || got.ID != next.ID {
				t.Errorf("node %d: the key finds %s, %v", i, got.ID.Short(), err)
			}
			for _, e := range table.endings() {
				if len(e.Conns) > 0 || e.Number == numbers[i] {
					t.Errorf("node %d: the old session's end takes connections along: %+v", i, e)
				}
			}
		}
		// The other order: a node that hears of the new session first.
		late := newCluster(t, 3, 0)
		for _, r := range []int{1, 0} {
			if _, err := late.tables[0].Merge([]Record{c.messages()[r]}); err != nil {
				t.Fatal(err)
			}
		}
		var over *EndedError
		if _, err := late.tables[0].ByID(old.ID); !errors.As(err, &over) || over.End.Reason != ReasonSuperseded {
			t.Errorf("the old session, of which word came last: %v", err)
		}
		c.equal(t)
	})
}

func TestTakeoverIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		old := h.create(t, 1, time.Hour, 0)
		for name, s := range map[string]Session{
			"another user": {Key: old.Key, Identity: Identity{Issuer: "https://idp", Subject: "mallory"}, Supersedes: old.ID},
			"another key":  {Key: Key{9}, Identity: old.Identity, Supersedes: old.ID},
			"nobody":       {Key: old.Key, Identity: old.Identity, Supersedes: ID{9}},
		} {
			if _, err := h.Create(s, time.Hour); err == nil {
				t.Errorf("%s took over", name)
			}
		}
		h.store.fail = errors.New("disk full")
		if _, err := h.Create(Session{Key: old.Key, Identity: old.Identity, Supersedes: old.ID}, time.Hour); err == nil {
			t.Fatal("taken over without being durable")
		}
		if got, err := h.ByKey(old.Key); err != nil || got.ID != old.ID {
			t.Errorf("after a takeover that failed the key finds %v, %v", got.ID.Short(), err)
		}
	})
}

// A session that is used at one node only is cut at none; one that is used nowhere ends at all.
func TestIdleOverNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = 10 * time.Minute
		c := newCluster(t, 3, 500*time.Millisecond)
		s := c.tables[0].create(t, 1, 48*time.Hour, idle)
		c.settle()
		conn := NewConnection(s.ID)
		last := c.tables[2].cfg.Clock.Boot()
		var mu sync.Mutex
		conn.Activity.LastPayload = func(Leg) Instant { mu.Lock(); defer mu.Unlock(); return last }
		if _, _, err := c.tables[2].Attach(conn); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(3, 4))
		for began := time.Now(); time.Since(began) < 24*time.Hour; {
			time.Sleep(time.Duration(rng.Int64N(int64(idle))))
			mu.Lock()
			last = c.tables[2].cfg.Clock.Boot()
			mu.Unlock()
			conn.Activity.NoteClient(1)
			conn.Activity.NoteUpstream(1)
			synctest.Wait()
			for i, table := range c.tables {
				if _, err := table.ByID(s.ID); err != nil {
					t.Fatalf("cut on node %d while it was used: %v", i, err)
				}
			}
		}
		c.mu.Lock()
		messages := len(c.history)
		c.mu.Unlock()
		if perHour := float64(messages) / 24; perHour > 12 {
			t.Errorf("%.1f messages an hour", perHour)
		}
		time.Sleep(idle + 3*time.Second)
		c.ended(t, s.ID, ReasonIdle)
		c.equal(t)
	})
}

// Whatever happens where, in whichever order it is heard of: all know the same in the end.
func TestConvergence(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 4, time.Second)
			c.rng = rand.New(rand.NewPCG(seed, 1))
			rng := rand.New(rand.NewPCG(seed, 2))
			var ids []ID
			for n := range 200 {
				at := c.tables[rng.IntN(len(c.tables))]
				switch k := rng.IntN(4); {
				case k < 2 || len(ids) == 0:
					ids = append(ids, at.create(t, byte(n+1), time.Duration(1+rng.IntN(300))*time.Second, time.Duration(rng.IntN(2))*time.Minute).ID)
				default:
					_, _ = at.End(ids[rng.IntN(len(ids))], End{Reason: ReasonKilled, By: at.cfg.Timebase.Self().Node}) // may be over
				}
				time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
			}
			c.settle()
			time.Sleep(2 * time.Second) // idle ends, with their grace
			// What anti-entropy does, for ends that nobody tells: those by idleness.
			known := c.messages()
			for _, table := range c.tables {
				known = append(known, table.Records(ids)...)
			}
			for _, i := range rng.Perm(len(known)) {
				for _, table := range c.tables {
					if _, err := table.Merge([]Record{known[i]}); err != nil {
						t.Fatal(err)
					}
				}
			}
			c.equal(t)
		})
	}
}

func BenchmarkMerge(b *testing.B) {
	clock := &driftClock{start: time.Now(), boot: time.Hour}
	clocks := map[string]*driftClock{"a": clock, "b": clock}
	records := make([]Record, 100_000)
	for i := range records {
		id := NewID()
		records[i] = Record{ID: id, Key: Key(append(id[:], id[:]...)), Identity: Identity{Issuer: "i", Subject: fmt.Sprint(i / 10)}, Created: time.Now(),
			Origin: Origin{Node: "b", Boot: 1}, Born: OriginTime(clock.Boot()), Deadline: OriginTime(clock.Boot().Add(time.Hour))}
	}
	for b.Loop() {
		table, err := NewTable(TableConfig{Clock: clock, Timebase: knowing{"a", clocks}})
		if err != nil {
			b.Fatal(err)
		}
		if m, err := table.Merge(records); err != nil || len(m.News) != len(records) {
			b.Fatal(len(m.News), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(records)), "ns/record")
}

// What could not be made durable is not taken for done when it comes again.
func TestFailedSaveIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, 0)
		marks := &failingMarks{fail: true}
		c.tables[1].cfg.Watermarks = marks
		s := c.tables[0].create(t, 1, time.Hour, 0)
		c.settle()
		disk := c.tables[1].store
		disk.mu.Lock()
		disk.fail = errors.New("disk full")
		disk.mu.Unlock()
		r := Record{ID: s.ID, Origin: s.Origin, Deadline: s.Ends, Revoked: &End{Reason: ReasonKilled}}
		w := Watermark{Subject: "x", Origin: s.Origin, Before: 1, End: End{Reason: ReasonKilled}}
		for range 2 {
			if _, err := c.tables[1].Merge([]Record{r}); err == nil {
				t.Fatal("taken over without being durable")
			}
			if _, _, err := c.tables[1].Raise(w); err == nil {
				t.Fatal("raised without being durable")
			}
		}
		disk.mu.Lock()
		disk.fail = nil
		disk.mu.Unlock()
		marks.fail = false
		if _, err := c.tables[1].Merge([]Record{r}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.tables[1].Raise(w); err != nil || marks.saved != 1 {
			t.Fatalf("%d saved, %v", marks.saved, err)
		}
		if saved, ok := disk.get(s.ID); !ok || saved.Ended == nil {
			t.Error("acknowledged, and a restart would not know")
		}
	})
}

type failingMarks struct {
	fail  bool
	saved int
}

func (f *failingMarks) SaveWatermark(Watermark) error {
	if f.fail {
		return errors.New("disk full")
	}
	f.saved++
	return nil
}

func (f *failingMarks) DeleteWatermarkSoon(Watermark) {}

// Who hears of the end of a session before the session ends the one that it had taken over from, too.
func TestTombstoneEndsTheSupersededSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, 0)
		old := c.tables[0].create(t, 1, time.Hour, 0)
		c.settle()
		conn := NewConnection(old.ID)
		if _, _, err := c.tables[1].Attach(conn); err != nil {
			t.Fatal(err)
		}
		tomb := Record{ID: ID{9}, Origin: old.Origin, Deadline: old.Ends, Supersedes: old.ID, Revoked: &End{Reason: ReasonKilled}}
		m, err := c.tables[1].Merge([]Record{tomb})
		if err != nil || len(m.Ended) != 1 || m.Ended[0].Session.ID != old.ID || len(m.Ended[0].Conns) != 1 {
			t.Errorf("%+v, %v", m, err)
		}
	})
}
