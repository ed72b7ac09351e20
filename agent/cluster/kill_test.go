// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// A lossy network, a kill of one session with connections everywhere: every node acknowledges and reports.
func TestKillReachesEveryNode(t *testing.T) {
	for _, nodes := range []int{3, 5} {
		simulate(t, func(t *testing.T) {
			s := newSim(t, nodes, nil)
			s.ready(t)
			v := s.create(t, "n1", 1, time.Hour, 0)
			eventually(t, time.Second, "created everywhere", s.lives(v))
			for _, n := range s.nodes {
				n.conns[v.ID] = 3
			}
			s.mu.Lock()
			s.loss, s.dup = 30, 10
			s.mu.Unlock()
			start := time.Now()
			end := session.End{Reason: session.ReasonKilled, By: "root@control"}
			if _, err := s.nodes["n0"].table.EndAll([]session.ID{v.ID}, end); err != nil {
				t.Fatal(err)
			}
			var progress int
			results := s.nodes["n0"].engine.Kill(t.Context(), Kill{IDs: []session.ID{v.ID}, Report: true, Progress: func(NodeKill) { progress++ }})
			if took := time.Since(start); took > 500*time.Millisecond {
				t.Errorf("the kill took %v", took)
			}
			if len(results) != nodes-1 || progress < nodes-1 {
				t.Fatalf("%d results, progress %d times: %+v", len(results), progress, results)
			}
			for _, r := range results {
				if r.Silent || r.Acked != 1 || r.Reported != 1 || r.Destroyed != 3 || !r.Verified || r.Err != "" || r.AckedAfter <= 0 {
					t.Errorf("%+v", r)
				}
			}
			if !s.ended(v)() {
				t.Error("it lives somewhere")
			}
			s.same(t, 5*time.Second)
		})
	}
}

// Fifty nodes, every fifth packet lost in either direction: the 99th of a hundred acknowledgements is there
// within 50 ms.
func TestKillReachesFiftyInTime(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 50, nil)
		s.ready(t)
		var all []session.Session
		for i := range 8 {
			all = append(all, s.create(t, "n1", byte(i+1), time.Hour, 0))
		}
		s.same(t, 10*time.Second)
		s.mu.Lock()
		s.loss = 20
		s.mu.Unlock()
		var after []time.Duration
		for _, v := range all {
			if _, err := s.nodes["n0"].table.EndAll([]session.ID{v.ID}, session.End{Reason: session.ReasonKilled}); err != nil {
				t.Fatal(err)
			}
			for _, r := range s.nodes["n0"].engine.Kill(t.Context(), Kill{IDs: []session.ID{v.ID}}) {
				if r.Silent {
					t.Errorf("%+v", r)
				}
				after = append(after, r.AckedAfter)
			}
		}
		slices.Sort(after)
		if p99 := after[len(after)*99/100]; p99 > 50*time.Millisecond {
			t.Errorf("acknowledged within %v", p99)
		}
	})
}

func TestKillOfManySessions(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.ready(t)
		s.mu.Lock()
		s.loss = 10
		s.mu.Unlock()
		var ids []session.ID
		for i := range 5000 {
			v, err := s.nodes["n1"].table.Create(session.Session{Key: session.Key{byte(i), byte(i >> 8), 1}, Identity: session.Identity{Subject: "u"}}, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, v.ID)
			s.nodes["n2"].conns[v.ID] = 1
		}
		s.same(t, 20*time.Second)
		if _, err := s.nodes["n0"].table.EndAll(ids, session.End{Reason: session.ReasonKilled}); err != nil {
			t.Fatal(err)
		}
		for _, r := range s.nodes["n0"].engine.Kill(t.Context(), Kill{IDs: ids, Report: true}) {
			want := map[string]int{"n1": 0, "n2": len(ids)}[r.Node]
			if r.Silent || r.Acked != len(ids) || r.Reported != len(ids) || r.Destroyed != want || !r.Verified {
				t.Errorf("%+v", r)
			}
		}
		s.same(t, 5*time.Second)
	})
}

func TestSilentNodesAreNamed(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 5, nil)
		s.ready(t)
		v := s.create(t, "n0", 1, time.Hour, 0)
		eventually(t, time.Second, "created everywhere", s.lives(v))
		s.nodes["n3"].down()
		s.mu.Lock()
		s.deaf["n4"] = true // membership has not noticed
		s.mu.Unlock()
		if _, err := s.nodes["n0"].table.EndAll([]session.ID{v.ID}, session.End{Reason: session.ReasonKilled}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		results := s.nodes["n0"].engine.Kill(t.Context(), Kill{IDs: []session.ID{v.ID}, Report: true})
		if took := time.Since(start); took != Patience {
			t.Errorf("it waited %v", took)
		}
		for _, r := range results {
			if want := r.Node == "n3" || r.Node == "n4"; r.Silent != want || r.Verified == want {
				t.Errorf("%+v", r)
			}
		}
		// What was not acknowledged is still sent.
		s.mu.Lock()
		s.deaf["n4"] = false
		s.mu.Unlock()
		eventually(t, time.Second, "ended on the node that was deaf", s.ended(v))
		// With all but the dead one answering, nobody waits.
		start = time.Now()
		results = s.nodes["n0"].engine.Kill(t.Context(), Kill{IDs: []session.ID{v.ID}})
		if took := time.Since(start); took > time.Second {
			t.Errorf("it waited %v for a node that is dead", took)
		}
		for _, r := range results {
			if want := r.Node == "n3"; r.Silent != want {
				t.Errorf("%+v", r)
			}
		}
	})
}

// A member that is taken for dead while a kill waits, and comes back, was not asked again: it was called
// silent though it could have answered. The order may have been lost, or what it answered.
func TestKillWaitsForWhoComesBack(t *testing.T) {
	for _, lost := range []string{"order", "answer"} {
		t.Run(lost, func(t *testing.T) { simulate(t, func(t *testing.T) { killWhileAway(t, lost) }) })
	}
}

func killWhileAway(t *testing.T, lost string) {
	var mute atomic.Bool
	s := newSim(t, 3, func(c *Config) {
		name := c.Timebase.Self().Node
		c.Network = &faulty{Network: c.Network, mute: func(to string, _ []byte) bool {
			return mute.Load() && (lost == "order" && to == "n2" || lost == "answer" && name == "n2")
		}}
	})
	s.ready(t)
	v := s.create(t, "n0", 1, time.Hour, 0)
	eventually(t, time.Second, "created everywhere", s.lives(v))
	n0, n2 := s.nodes["n0"], s.nodes["n2"]
	n2.conns[v.ID] = 2
	mute.Store(true)
	if _, err := n0.table.EndAll([]session.ID{v.ID}, session.End{Reason: session.ReasonKilled}); err != nil {
		t.Fatal(err)
	}
	s.wait.Go(func() {
		time.Sleep(time.Second)
		s.parts(map[string]int{"n2": 1}) // membership has noticed
		time.Sleep(time.Second)
		mute.Store(false)
		s.parts(nil)
	})
	for _, r := range n0.engine.Kill(t.Context(), Kill{IDs: []session.ID{v.ID}, Report: true}) {
		if r.Silent || r.Acked != 1 || !r.Verified {
			t.Errorf("%+v", r)
		}
		if r.Node == "n2" && (r.Destroyed != 2 || r.AckedAfter < 2*time.Second) {
			t.Errorf("%+v", r)
		}
	}
	eventually(t, time.Second, "nothing left to tell", func() bool {
		return n0.engine.peer("n2").outbox.length()+n2.engine.peer("n0").outbox.length() == 0
	})
}

// A kill that ended sessions but could not make that durable says so.
func TestKillNamesAFullDisk(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.ready(t)
		v := s.create(t, "n0", 1, time.Hour, 0)
		eventually(t, time.Second, "created everywhere", s.lives(v))
		n0, n1 := s.nodes["n0"], s.nodes["n1"]
		n1.conns[v.ID] = 2
		n1.store.mu.Lock()
		n1.store.broken = true
		n1.store.mu.Unlock()
		if _, err := n0.table.EndAll([]session.ID{v.ID}, session.End{Reason: session.ReasonKilled}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		results := n0.engine.Kill(ctx, Kill{IDs: []session.ID{v.ID}, Report: true})
		if r := results[0]; r.Destroyed != 2 || r.Err == "" {
			t.Errorf("%+v", r)
		}
		if !s.ended(v)() {
			t.Error("it lives where the disk is full")
		}
	})
}
