// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

func TestQuorum(t *testing.T) {
	q := newQuorum("a", []string{"a", "b", "c", "d", "e"}, 1)
	type step struct {
		name             string
		states           map[string]MemberState
		have             bool
		known, reachable int
		changed          bool
	}
	for i, st := range []step{
		{"alone at first", map[string]MemberState{"a": Alive}, false, 5, 1, false},
		{"one came", map[string]MemberState{"a": Alive, "b": Alive}, false, 5, 2, false},
		{"a third", map[string]MemberState{"a": Alive, "b": Alive, "c": Suspect}, true, 5, 3, true},
		{"a sixth that is new: half of them", map[string]MemberState{"a": Alive, "b": Alive, "f": Alive, "c": Dead}, false, 6, 3, true},
		{"one left for good", map[string]MemberState{"a": Alive, "b": Alive, "f": Alive, "c": Left}, true, 5, 3, true},
		{"others were reaped", map[string]MemberState{"a": Alive, "b": Alive, "f": Alive}, true, 5, 3, false},
	} {
		now := session.Instant(10 + i)
		q.update(st.states, now)
		m := q.get()
		changed := m.Since == now
		if m.Have != st.have || m.Known != st.known || m.Reachable != st.reachable || changed != st.changed {
			t.Errorf("%d, %s: %+v, changed %v", i, st.name, m, changed)
		}
	}
	q.update(map[string]MemberState{"b": Alive}, 20)
	if m := q.get(); m.Have || m.Since != 20 {
		t.Errorf("%+v", m)
	}
	q.forget("d")
	q.forget("e")
	q.update(map[string]MemberState{"b": Alive}, 30)
	if m := q.get(); !m.Have || m.Since != 30 || m.Known != 3 {
		t.Errorf("after two were removed: %+v", m)
	}
	if m := newQuorum("a", nil, 5).get(); !m.Have {
		t.Errorf("a single node has no majority of itself: %+v", m)
	}
}

func TestMinorityIsToldAndBack(t *testing.T) {
	simulate(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []Majority
		s := newSim(t, 5, nil)
		s.ready(t)
		n4 := s.nodes["n4"]
		n4.down()
		n4.conf = func(c *Config) {
			c.Peers = []string{"n0", "n1", "n2", "n3"}
			c.OnMajority = func(m Majority) { mu.Lock(); told = append(told, m); mu.Unlock() }
		}
		n4.start()
		s.ready(t)
		s.parts(map[string]int{"n3": 1, "n4": 1})
		time.Sleep(time.Minute)
		if m := n4.engine.Majority(); m.Have || n4.clock.Boot().Sub(m.Since) < 59*time.Second || m.Known != 5 || m.Reachable != 2 {
			t.Errorf("%+v", m)
		}
		if !s.nodes["n0"].engine.Majority().Have {
			t.Error("the majority is none")
		}
		s.parts(nil)
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		if len(told) != 3 || !told[0].Have || told[1].Have || !told[2].Have {
			t.Errorf("told %+v", told)
		}
	})
}

// Two looks at the members at the same time told of what they saw in any order: strict services stayed shut
// though the majority was back.
func TestLastWordOnMajorityIsTheLatest(t *testing.T) {
	simulate(t, func(t *testing.T) {
		var mu sync.Mutex
		var last bool
		s := newSim(t, 3, func(c *Config) {
			if c.Timebase.Self().Node != "n0" {
				return
			}
			c.OnMajority = func(m Majority) {
				if !m.Have {
					time.Sleep(time.Millisecond) // the scheduler is elsewhere
				}
				mu.Lock()
				defer mu.Unlock()
				last = m.Have
			}
		})
		s.ready(t)
		s.wait.Go(func() { s.parts(map[string]int{"n0": 1}) })
		time.Sleep(time.Millisecond / 2)
		s.parts(nil)
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		if have := s.nodes["n0"].engine.Majority().Have; !have || last != have {
			t.Errorf("told %v last, and it is %v", last, have)
		}
	})
}
