// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// A node that has been away gets everything in chunks, and everyone gets what only it knew.
func TestSyncOfManySessions(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.ready(t)
		s.parts(map[string]int{"n2": 1})
		long := strings.Repeat("g", 300)
		for i := range 8000 {
			at := s.nodes[[]string{"n0", "n2"}[i%2]]
			at.store.takes(0)
			_, err := at.table.Create(session.Session{Key: session.Key{byte(i), byte(i >> 8), 1}, Identity: session.Identity{Subject: "u", Groups: []string{long}}}, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
		}
		s.parts(nil)
		s.same(t, 5*time.Second)
		for name, n := range s.nodes {
			if n.table.Count() != 8000 {
				t.Errorf("%s has %d sessions", name, n.table.Count())
			}
		}
		time.Sleep(10 * time.Second)
		pulled := 0
		for _, n := range s.nodes {
			pulled += n.counted(CountPulled) + n.counted(CountPushed)
			if bad := n.counted(CountMalformed) + n.counted(CountRoundErrors); bad > 0 {
				t.Errorf("%s: %d errors", n.name, bad)
			}
		}
		if pulled > 5*8000 {
			t.Errorf("%d records went about", pulled)
		}
	})
}

// Replies keep to a size: what does not fit is asked for again.
func TestServeInChunks(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 1, nil)
		e, table := s.nodes["n0"].engine, s.nodes["n0"].table
		s.nodes["n0"].store.takes(0)
		long := strings.Repeat("g", 2000)
		var ids []session.ID
		for i := range 1000 {
			v, err := table.Create(session.Session{Key: session.Key{byte(i), byte(i >> 8), 1}, Identity: session.Identity{Subject: "u", Groups: []string{long}}}, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, v.ID)
		}
		got := 0
		for rounds := 0; len(ids) > 0; rounds++ {
			b, err := e.Serve("n1", encodeIDs(kindPull, ids))
			if err != nil || len(b) > maxRequest || rounds > 3 {
				t.Fatal(len(b), rounds, err)
			}
			c, err := decodeCarrier(b[2:])
			if err != nil || c.covered <= 0 {
				t.Fatal(c.covered, err)
			}
			st, err := decodeState(c.state)
			if err != nil || len(st.items) != c.covered {
				t.Fatalf("%d items of %d, %v", len(st.items), c.covered, err)
			}
			got += c.covered
			ids = ids[c.covered:]
		}
		if got != 1000 {
			t.Errorf("%d records", got)
		}
	})
}

func TestServeSummariesInChunks(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 1, nil)
		n := s.nodes["n0"]
		n.store.takes(0)
		const many = 60_000
		var records []session.Record
		for i := range many {
			id := session.ID{byte(i), byte(i >> 8), byte(i >> 16), 1}
			records = append(records, session.Record{ID: id, Origin: n.engine.self, Deadline: session.OriginTime(n.clock.Boot().Add(time.Hour)), Revoked: &session.End{Reason: session.ReasonKilled}})
		}
		if _, err := n.table.Merge(records); err != nil {
			t.Fatal(err)
		}
		var all []uint16
		for i := range buckets * leaves {
			all = append(all, uint16(i))
		}
		seen := map[session.ID]bool{}
		rounds := 0
		for ; len(all) > 0; rounds++ {
			b, err := n.engine.Serve("n1", encodeSummaries(summariesRequest{all}))
			if err != nil || len(b) > maxRequest {
				t.Fatal(len(b), err)
			}
			r, err := decodeSummariesReply(b[2:])
			if err != nil || r.covered <= 0 {
				t.Fatal(r.covered, err)
			}
			for _, one := range r.summaries {
				if seen[one.ID] {
					t.Fatal("told twice")
				}
				seen[one.ID] = true
			}
			all = all[r.covered:]
		}
		if len(seen) != many || rounds != 2 {
			t.Errorf("%d summaries in %d rounds", len(seen), rounds)
		}
		if _, err := n.engine.Serve("n1", encodeSummaries(summariesRequest{[]uint16{2, 1}})); !errors.Is(err, errMalformed) {
			t.Errorf("leaves out of order: %v", err)
		}
	})
}

// A node that takes over many sessions from one member is not told the same by others: but for a few, which may be ends.
func TestTakingManyFromOne(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.ready(t)
		n0, n1 := s.nodes["n0"], s.nodes["n1"]
		eventually(t, time.Second, "the other's clock", func() bool { _, _, ok := n0.engine.cfg.Timebase.Offset(n1.engine.self); return ok })
		n0.engine.taking.Store(n0.engine.peer("n2"))
		n0.store.takes(0)
		n1.store.takes(0)
		s.parts(map[string]int{"n0": 1}) // nothing is told by packets
		var ids []session.ID
		for i := range 1000 {
			v, err := n1.table.Create(session.Session{Key: session.Key{byte(i), byte(i >> 8), 1}, Identity: session.Identity{Subject: "u"}}, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, v.ID)
		}
		push := func(ids []session.ID) bool {
			state, _ := n1.engine.pack(n1.engine.recordItems(ids), maxChunk)
			b, err := n0.engine.Serve("n1", encodeCarrier(kindPush, carrier{state: state}))
			if err != nil {
				t.Fatal(err)
			}
			c, err := decodeCarrier(b[2:])
			if err != nil {
				t.Fatal(err)
			}
			return c.busy
		}
		if !push(ids) || n0.table.Count() != 0 {
			t.Errorf("%d sessions were taken from two", n0.table.Count())
		}
		if push(ids[:10]) || n0.table.Count() != 10 {
			t.Errorf("%d sessions of ten", n0.table.Count())
		}
		b, err := n0.engine.Serve("n1", encodeDigest(&digestRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if r, err := decodeDigestReply(b[2:]); err != nil || !r.busy {
			t.Errorf("a round begins with another: %v", err)
		}
		n0.engine.taking.Store(nil)
		if push(ids) || n0.table.Count() != len(ids) {
			t.Errorf("afterwards %d of %d", n0.table.Count(), len(ids))
		}
	})
}

func TestOneTransferAtATime(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 1, nil)
		e := s.nodes["n0"].engine
		s.create(t, "n0", 1, time.Hour, 0)
		busy := func(from string, d digestRequest) bool {
			b, err := e.Serve(from, encodeDigest(&d))
			if err != nil {
				t.Fatal(err)
			}
			r, err := decodeDigestReply(b[2:])
			if err != nil || !r.busy && d.fold != e.cfg.Table.Fold() && len(r.leaves) != 1 {
				t.Fatalf("%+v, %v", r, err)
			}
			return r.busy
		}
		for range 2 {
			if busy("n1", digestRequest{}) {
				t.Error("the first is turned away")
			}
		}
		if !busy("n2", digestRequest{}) {
			t.Error("two at a time")
		}
		if busy("n2", digestRequest{fold: e.cfg.Table.Fold()}) {
			t.Error("one that knows the same is turned away")
		}
		time.Sleep(servingLease / 2)
		if _, err := e.Serve("n1", encodeIDs(kindPull, nil)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(servingLease / 2)
		if !busy("n2", digestRequest{}) {
			t.Error("the lease was not renewed")
		}
		time.Sleep(servingLease)
		if busy("n2", digestRequest{}) {
			t.Error("the lease does not run out")
		}
	})
}

func TestAloneIsReady(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 1, func(c *Config) { c.Alone = true })
		if !s.nodes["n0"].engine.Ready() {
			t.Error("a node that is alone waits for others")
		}
	})
	simulate(t, func(t *testing.T) {
		readied := 0
		s := newSim(t, 2, func(c *Config) { c.OnReady = func() { readied++ } })
		s.nodes["n1"].down()
		s.nodes["n0"].down()
		readied = 0
		s.nodes["n0"].start()
		time.Sleep(time.Minute)
		if s.nodes["n0"].engine.Ready() || readied != 0 {
			t.Error("ready without having asked anybody")
		}
		s.nodes["n1"].start()
		s.ready(t)
		if readied != 2 {
			t.Errorf("told %d times", readied)
		}
	})
}

// Where delivery gives up, anti-entropy takes over at once.
func TestOverflowIsLeftToAntiEntropy(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.ready(t)
		n0 := s.nodes["n0"]
		n0.store.takes(0)
		s.mu.Lock()
		s.deaf["n1"] = true
		s.mu.Unlock()
		n := limits[classCreate] + windows[classCreate] + 100
		for i := range n {
			if _, err := n0.table.Create(session.Session{Key: session.Key{byte(i), byte(i >> 8), byte(i >> 16), 1}, Identity: session.Identity{Subject: "u"}}, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(20 * time.Second)
		if n0.counted(CountOverflow) == 0 {
			t.Fatal("no overflow")
		}
		s.mu.Lock()
		s.deaf["n1"] = false
		s.mu.Unlock()
		s.same(t, 15*time.Second)
	})
}

// documentBox is what another package keeps.
type documentBox struct {
	mu   sync.Mutex
	list map[string]Document
}

func (b *documentBox) all() (list []Document) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range b.list {
		list = append(list, d)
	}
	return list
}

func (b *documentBox) take(_ string, d Document) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if string(d.Data) == "bad" {
		return errors.New("bad signature")
	}
	b.list[string(d.Data)] = d
	return nil
}

func TestDocumentsReachEveryone(t *testing.T) {
	simulate(t, func(t *testing.T) {
		boxes := map[string]*documentBox{}
		conf := func(c *Config) {
			b := boxes[c.Timebase.Self().Node]
			if b == nil {
				b = &documentBox{list: map[string]Document{}}
				boxes[c.Timebase.Self().Node] = b
			}
			c.Documents, c.Document = b.all, b.take
		}
		s := newSim(t, 3, conf)
		s.ready(t)
		has := func(data string) func() bool {
			return func() bool {
				for _, b := range boxes {
					b.mu.Lock()
					_, ok := b.list[data]
					b.mu.Unlock()
					if !ok {
						return false
					}
				}
				return true
			}
		}
		one := Document{Kind: 3, Data: []byte("deny b")}
		_ = boxes["n0"].take("", one)
		if err := s.nodes["n0"].engine.Publish("deny", one); err != nil {
			t.Fatal(err)
		}
		if took := eventually(t, time.Second, "published", has("deny b")); took > 50*time.Millisecond {
			t.Errorf("published within %v", took)
		}
		_ = s.nodes["n0"].engine.Publish("deny", Document{Kind: 3, Data: []byte("bad")}) // refused, and acknowledged
		eventually(t, time.Second, "all acknowledged", func() bool { return s.nodes["n0"].engine.peer("n1").outbox.length() == 0 })
		// What only one has, and nobody published, comes by anti-entropy; both ways.
		_ = boxes["n1"].take("", Document{Kind: 4, Data: []byte("silent")})
		eventually(t, 10*time.Second, "found", has("silent"))
		late := s.add("late", conf)
		late.start()
		eventually(t, 2*time.Second, "a late joiner has it all", func() bool { return has("deny b")() && has("silent")() })
		if err := late.engine.Publish("x", Document{Data: make([]byte, maxOpaque+1)}); !errors.Is(err, errTooLong) {
			t.Errorf("a document that is too long: %v", err)
		}
	})
}
