// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// stateOf is a message of a node that the test plays.
func stateOf(sender session.Origin, epoch uint64, list ...item) []byte {
	w := newStateWriter(sender, epoch, func(o session.Origin) remoteClock { return remoteClock{origin: o} })
	for i := range list {
		w.add(&list[i])
	}
	return w.message()
}

// Ends are applied while creations wait for the disk.
func TestRevocationsOvertakeCreations(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.ready(t)
		v := s.create(t, "n0", 200, time.Hour, 0)
		eventually(t, time.Second, "created everywhere", s.lives(v))
		n0, n1 := s.nodes["n0"], s.nodes["n1"]
		n0.store.takes(0)
		n1.store.takes(time.Second) // for each batch
		for i := range 4000 {
			if _, err := n0.table.Create(session.Session{Key: session.Key{byte(i), byte(i >> 8), 1}, Identity: session.Identity{Subject: "u"}}, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(50 * time.Millisecond)
		if _, err := n0.table.EndAll([]session.ID{v.ID}, session.End{Reason: session.ReasonKilled}); err != nil {
			t.Fatal(err)
		}
		results := n0.engine.Kill(t.Context(), Kill{IDs: []session.ID{v.ID}, Report: true})
		if r := results[0]; r.Silent || r.AckedAfter > 1200*time.Millisecond {
			t.Errorf("%+v", r)
		}
		if n1.table.Count() == n0.table.Count() {
			t.Error("the creations did not wait: the test shows nothing")
		}
		s.same(t, time.Minute)
	})
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.ready(t)
		n := s.nodes["n0"]
		good := session.Record{ID: session.ID{1}, Key: session.Key{1}, Identity: session.Identity{Subject: "u"}, Origin: originB, Born: 1, Deadline: 100}
		create, _ := encodeCreate(&good)
		bad := item{number: 2, kind: itemRevoke, body: create.body}
		for i, b := range [][]byte{
			nil, {wireVersion}, {wireVersion, byte(kindState), 0xff}, {wireVersion, byte(kindAck), 0x80}, {wireVersion, byte(kindClock)},
			stateOf(originB, 7, create),                     // in somebody else's name
			stateOf(session.Origin{Node: "n1"}, 7, create),  // without a boot
			stateOf(session.Origin{Node: "n1", Boot: 1}, 0), // without a run
			stateOf(session.Origin{Node: "n1", Boot: 1}, 7, create, bad),
			make([]byte, maxMessage+1),
		} {
			before := n.counted(CountMalformed)
			n.engine.Receive("n1", b)
			if n.counted(CountMalformed) != before+1 {
				t.Errorf("message %d was not refused", i)
			}
		}
		n.engine.Receive("n0", sampleState(t)) // from ourselves
		time.Sleep(time.Second)
		if n.table.Count() != 0 {
			t.Error("something of it was applied")
		}
	})
}

// What a later version says is acknowledged, counted and passed on, and otherwise ignored.
func TestUnknownKinds(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.ready(t)
		n := s.nodes["n0"]
		p := n.engine.peer("n1")
		n.engine.put(p, outboxKey{kind: 99}, item{kind: 99, body: []byte("later")}, n.clock.Boot(), nil, nil)
		eventually(t, time.Second, "acknowledged", func() bool { return p.outbox.length() == 0 })
		if s.nodes["n1"].counted(CountUnknownItems) != 1 {
			t.Error("not counted")
		}
		n.engine.Receive("n1", []byte{wireVersion, 200, 1, 2, 3})
		if n.counted(CountUnknown) != 1 {
			t.Error("an unknown message is not counted")
		}
		mixed := stateOf(originB, 7, item{kind: 99, body: []byte("later")})
		for i, b := range [][]byte{mixed, {wireVersion, 200, 1}, {wireVersion + 1, 1, 1}} {
			if !n.engine.Gossiped(b) {
				t.Errorf("gossip %d is not passed on", i)
			}
			if n.engine.Gossiped(b) {
				t.Errorf("gossip %d is passed on twice", i)
			}
		}
		if n.engine.Gossiped([]byte{wireVersion, byte(kindState), 0xff}) {
			t.Error("malformed gossip is passed on")
		}
	})
}

// Gossip alone ends a session, where packets to a member are lost.
func TestGossipReachesWhomPacketsDoNot(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.ready(t)
		v := s.create(t, "n0", 1, time.Hour, 0)
		eventually(t, time.Second, "created everywhere", s.lives(v))
		n1 := s.nodes["n1"]
		r, _ := n1.table.RecordOf(v.Key)
		r.Revoked = &session.End{Reason: session.ReasonKilled, At: time.Now()}
		it, err := encodeRevoke(&r)
		if err != nil {
			t.Fatal(err)
		}
		if !n1.engine.Gossiped(stateOf(session.Origin{Node: "n7", Boot: 1}, 1, it)) {
			t.Error("no news")
		}
		eventually(t, time.Second, "ended", func() bool { _, err := n1.table.ByID(v.ID); return err != nil })
		s.same(t, 5*time.Second)
	})
}

// An acknowledgement for an earlier run of the engine is not one for this: it numbers from one again.
func TestAcknowledgementsOfAnEarlierRun(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.ready(t)
		s.mu.Lock()
		s.deaf["n1"] = true
		s.mu.Unlock()
		n := s.nodes["n0"]
		s.create(t, "n0", 1, time.Hour, 0)
		time.Sleep(10 * time.Millisecond)
		n.engine.Receive("n1", encodeAck(ack{epoch: n.engine.epoch + 2, numbers: []uint64{1}}))
		if n.engine.peer("n1").outbox.length() != 1 {
			t.Error("it counts")
		}
		n.engine.Receive("n1", encodeAck(ack{epoch: n.engine.epoch, numbers: []uint64{1}}))
		if n.engine.peer("n1").outbox.length() != 0 {
			t.Error("one for this run does not count")
		}
	})
}

func TestReportsOnceForEachSession(t *testing.T) {
	e := &Engine{cfg: Config{Clock: &handClock{}, Count: func(string, int) {}}, recent: newRecentEndings(recentRoom), deliveries: newAgenda()}
	r := newReporter(e)
	p := newPeer("b")
	order := func(id byte, durable bool) bool {
		return r.order(&arrival{peer: p, epoch: 1, kill: 7, rec: session.Record{ID: session.ID{id}}}, durable)
	}
	if !order(1, true) || !order(2, true) || !order(1, true) {
		t.Fatal("no room")
	}
	got, ok := r.next()
	if !ok || len(got.ids) != 2 || got.report.covered != 2 || got.report.part != 1 || got.report.err != "" {
		t.Errorf("%+v", got)
	}
	if order(2, true); r.ids != 0 {
		t.Error("a session is reported on twice")
	}
	order(3, false)
	if got, ok = r.next(); !ok || got.report.part != 2 || got.report.err == "" {
		t.Errorf("%+v", got)
	}
	if _, ok = r.next(); ok {
		t.Error("nothing is reported on")
	}
}
