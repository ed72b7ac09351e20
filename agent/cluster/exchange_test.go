// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

func TestClocksAreCompared(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 5, nil)
		s.ready(t)
		time.Sleep(time.Second)
		before := s.nodes["n0"].counted(CountSent)
		time.Sleep(10 * time.Second)
		// Some ten exchanges a second begun, as many answered, and nothing else to tell.
		if sent := s.nodes["n0"].counted(CountSent) - before; sent < 150 || sent > 250 {
			t.Errorf("%d packets in ten idle seconds", sent)
		}
		for _, n := range s.nodes {
			list := n.engine.Nodes()
			if len(list) != 4 {
				t.Fatalf("%s knows %d others", n.name, len(list))
			}
			for _, other := range list {
				really := n.clock.Boot().Sub(s.nodes[other.Name].clock.Boot())
				if (other.Offset-really).Abs() > other.Bound || other.Bound > 5*time.Millisecond {
					t.Errorf("%s to %s: %v +-%v, really %v", n.name, other.Name, other.Offset, other.Bound, really)
				}
				if other.State != Alive || other.RoundTrip <= 0 || other.Heard == 0 || !other.Ready || other.Synced == 0 || other.Outbox != 0 {
					t.Errorf("%s says of %s: %+v", n.name, other.Name, other)
				}
			}
		}
	})
}

func TestNodesShowWhatIsWrong(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 3, func(c *Config) { c.Peers = []string{"n0", "n1", "n2", "never"} })
		s.ready(t)
		s.nodes["n2"].down()
		s.mu.Lock()
		s.deaf["n1"] = true
		s.mu.Unlock()
		s.create(t, "n0", 1, time.Hour, 0)
		time.Sleep(time.Second)
		want := map[string]Node{"never": {State: Absent}, "n1": {State: Alive, Outbox: 1}, "n2": {State: Dead}}
		for _, n := range s.nodes["n0"].engine.Nodes() {
			if w := want[n.Name]; n.State != w.State || n.Outbox != w.Outbox {
				t.Errorf("%+v", n)
			}
			delete(want, n.Name)
		}
		if len(want) != 0 {
			t.Errorf("not shown: %v", want)
		}
	})
}

// A wall clock that is wrong raises an alarm, once, and nothing else.
func TestWallClocksOnlyAlarm(t *testing.T) {
	simulate(t, func(t *testing.T) {
		var mu sync.Mutex
		var alarms []Skew
		s := newSim(t, 2, nil)
		s.nodes["n0"].down()
		s.nodes["n0"].conf = func(c *Config) {
			c.OnSkew = func(k Skew) { mu.Lock(); alarms = append(alarms, k); mu.Unlock() }
		}
		s.nodes["n0"].start()
		s.ready(t)
		v := s.create(t, "n0", 1, time.Hour, 0)
		eventually(t, time.Second, "created everywhere", s.lives(v))
		until := func() session.Instant { got, _ := s.nodes["n1"].table.ByID(v.ID); return got.Until }
		before := until()
		for _, step := range []time.Duration{6 * time.Hour, -5 * time.Hour, -time.Hour, 500 * time.Millisecond} {
			s.nodes["n1"].clock.step(step)
			time.Sleep(30 * time.Second)
		}
		if moved := until().Sub(before).Abs(); moved > 10*time.Millisecond {
			t.Errorf("a step of the wall clock moved the deadline by %v", moved)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(alarms) != 2 || !alarms[0].Alarm || alarms[0].Node != "n1" || alarms[0].Ahead < 5*time.Hour || alarms[1].Alarm {
			t.Errorf("alarms %+v", alarms)
		}
	})
}

func TestSkewDoesNotFlap(t *testing.T) {
	var alarms int
	e := &Engine{cfg: Config{OnSkew: func(Skew) { alarms++ }}}
	p := newPeer("b")
	for _, ms := range []int{900, 1050, 990, 1010, 950, 1001, 890, 950, 999} {
		e.noteWall(p, time.Duration(ms)*time.Millisecond, 0)
	}
	if alarms != 2 {
		t.Errorf("%d changes of state", alarms)
	}
	e.noteWall(p, 3*time.Second, 5*time.Second) // the reply may have been under way for that long
	if alarms != 2 {
		t.Error("alarm for what the way may have taken")
	}
}

// A reply that nobody asked for, or that comes twice, says nothing.
func TestForeignClockRepliesAreIgnored(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 1, nil)
		e := s.nodes["n0"].engine
		e.Receive("n1", encodeClock(clockMessage{reply: true, t1: 5, t2: 6, t3: 6, boot: 9, epoch: 9}))
		if _, _, ok := e.cfg.Timebase.Offset(session.Origin{Node: "n1", Boot: 9}); ok {
			t.Error("it counts")
		}
	})
}
