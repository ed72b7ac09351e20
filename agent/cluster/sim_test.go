// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// simClock is the clock of a host that booted at another time, drifts, and has a wrong wall clock.
type simClock struct {
	start time.Time
	boot  time.Duration
	ppm   int64

	mu   sync.Mutex
	wall time.Duration
}

func (c *simClock) Boot() session.Instant {
	d := time.Since(c.start)
	return session.Instant(c.boot + d + d*time.Duration(c.ppm)/1_000_000)
}
func (c *simClock) Coarse() session.Instant { return c.Boot() }
func (c *simClock) Wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.wall)
}
func (c *simClock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall += d
}

// simStore is a disk that takes a while.
type simStore struct {
	mu       sync.Mutex
	sessions map[session.ID]session.Session
	marks    []session.Watermark
	slow     time.Duration
	broken   bool
}

func (s *simStore) Save(list ...session.Session) error {
	s.mu.Lock()
	slow := s.slow
	s.mu.Unlock()
	time.Sleep(slow)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return errors.New("disk full")
	}
	for _, v := range list {
		if old, ok := s.sessions[v.ID]; !ok || old.Ended == nil || v.Ended != nil {
			s.sessions[v.ID] = v
		}
	}
	return nil
}
func (s *simStore) takes(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow = d
}
func (s *simStore) SaveSoon(v session.Session) { go func() { _ = s.Save(v) }() }
func (s *simStore) DeleteSoon(id session.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, id)
}
func (s *simStore) SaveWatermark(w session.Watermark) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marks = append(s.marks, w)
	return nil
}

func (s *simStore) DeleteWatermarkSoon(session.Watermark) {}

// simNode is a host; what is in it but the clock, the store and the name goes in a restart.
type simNode struct {
	sim   *sim
	name  string
	clock *simClock
	store *simStore
	conf  func(*Config)

	mu     sync.Mutex
	up     bool
	engine *Engine
	table  *session.Table
	count  map[string]int
	conns  map[session.ID]int // connections that Outcome finds destroyed
	stop   func()
}

// sim is a network of nodes that loses, doubles and reorders packets, and may be parted.
type sim struct {
	t     *testing.T
	names []string
	nodes map[string]*simNode
	wait  sync.WaitGroup

	mu    sync.Mutex
	rng   *rand.Rand
	loss  int // per cent
	dup   int // per cent
	delay time.Duration
	part  map[string]int // which part of the network a node is in
	dead  map[string]bool
	deaf  map[string]bool // loses all packets and requests, and membership does not notice
}

// newSim starts nodes in the caller's bubble. All of what it started has ended when the test does.
func newSim(t *testing.T, n int, conf func(*Config)) *sim {
	t.Helper()
	s := &sim{t: t, nodes: map[string]*simNode{}, rng: rand.New(rand.NewPCG(1, uint64(n))), delay: 2 * time.Millisecond,
		part: map[string]int{}, dead: map[string]bool{}, deaf: map[string]bool{}}
	for i := range n {
		s.add(fmt.Sprint("n", i), conf)
	}
	t.Cleanup(func() {
		for _, node := range s.nodes {
			node.down()
		}
		s.wait.Wait()
	})
	for _, name := range s.names {
		s.nodes[name].start()
	}
	return s
}

func (s *sim) add(name string, conf func(*Config)) *simNode {
	i := len(s.names)
	node := &simNode{sim: s, name: name, conf: conf, count: map[string]int{}, conns: map[session.ID]int{},
		clock: &simClock{start: time.Now(), boot: time.Duration(1+i*i) * time.Hour, ppm: int64(50 * (i%3 - 1))},
		store: &simStore{sessions: map[session.ID]session.Session{}, slow: time.Millisecond}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, name)
	s.nodes[name] = node
	return node
}

// start boots the node's processes, from what its store has.
func (n *simNode) start() {
	t := n.sim.t
	t.Helper()
	origin := session.Origin{Node: n.name, Boot: uint64(n.clock.boot)}
	base := NewTimebase(origin, n.clock, nil)
	var e *Engine
	table, err := session.NewTable(session.TableConfig{Clock: n.clock, Store: n.store, Watermarks: n.store, Timebase: base,
		OnChange: func(r session.Record) { e.Changed(r) }})
	if err != nil {
		t.Fatal(err)
	}
	table.SetIdleGrace(time.Second)
	n.store.mu.Lock()
	for _, w := range n.store.marks {
		table.RestoreWatermark(w)
	}
	for _, v := range n.store.sessions {
		if err := table.Restore(v); err != nil {
			t.Error(err)
		}
	}
	n.store.mu.Unlock()
	cfg := Config{Clock: n.clock, Timebase: base, Table: table, Network: n, Membership: n, Log: slog.New(slog.DiscardHandler),
		Count: func(name string, k int) { n.mu.Lock(); n.count[name] += k; n.mu.Unlock() },
		Outcome: func(ctx context.Context, list []EndedSession) (o Outcome, err error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, ending := range list {
				o.Destroyed += n.conns[ending.ID]
			}
			o.Verified = true
			return o, nil
		}}
	if n.conf != nil {
		n.conf(&cfg)
	}
	if e, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = table.Run(ctx) }) // nil always
	wg.Go(func() { _ = e.Run(ctx) })
	n.mu.Lock()
	n.engine, n.table, n.up = e, table, true
	n.stop = func() { cancel(); wg.Wait() }
	n.mu.Unlock()
	n.sim.membership()
}

// down ends the node's processes.
func (n *simNode) down() {
	n.mu.Lock()
	up := n.up
	n.up = false
	n.mu.Unlock()
	if up {
		n.stop()
		n.sim.membership()
	}
}

func (n *simNode) running() (*Engine, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.engine, n.up
}

func (n *simNode) counted(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.count[name]
}

// membership tells everyone that something changed.
func (s *sim) membership() {
	s.mu.Lock()
	nodes := maps.Clone(s.nodes)
	s.mu.Unlock()
	for _, n := range nodes {
		if e, up := n.running(); up {
			e.MembersChanged()
		}
	}
}

// parts parts the network, or heals it.
func (s *sim) parts(part map[string]int) {
	s.mu.Lock()
	s.part = part
	s.mu.Unlock()
	s.membership()
}

// Members implements Membership: it knows at once.
func (n *simNode) Members() []Member {
	n.sim.mu.Lock()
	nodes, part := maps.Clone(n.sim.nodes), n.sim.part
	n.sim.mu.Unlock()
	var list []Member
	for name, other := range nodes {
		_, up := other.running()
		state := Alive
		if !up || part[name] != part[n.name] {
			state = Dead
		}
		list = append(list, Member{name, state})
	}
	return list
}

func (s *sim) create(t *testing.T, at string, key byte, absolute, idle time.Duration) session.Session {
	t.Helper()
	v, err := s.nodes[at].table.Create(session.Session{Key: session.Key{key}, IdleTimeout: idle,
		Identity: session.Identity{Issuer: "https://idp", Subject: fmt.Sprint("user", key)}}, absolute)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// eventually polls until a condition holds, and reports how long that took.
func eventually(t *testing.T, limit time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !holds() {
		if time.Since(start) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(start)
}

// onAll reports whether a condition holds on each node that is up.
func (s *sim) onAll(holds func(*simNode) bool) func() bool {
	return func() bool {
		for _, n := range s.nodes {
			if _, up := n.running(); up && !holds(n) {
				return false
			}
		}
		return true
	}
}

func (s *sim) lives(v session.Session) func() bool {
	return s.onAll(func(n *simNode) bool { _, err := n.table.ByKey(v.Key); return err == nil })
}

func (s *sim) ended(v session.Session) func() bool {
	return s.onAll(func(n *simNode) bool {
		var ended *session.EndedError
		_, err := n.table.ByID(v.ID)
		return errors.As(err, &ended)
	})
}

// ready waits until all nodes have had a round.
func (s *sim) ready(t *testing.T) {
	t.Helper()
	eventually(t, 5*time.Second, "all ready", s.onAll(func(n *simNode) bool { return n.engine.Ready() }))
}

// same waits until all nodes know the same.
func (s *sim) same(t *testing.T, limit time.Duration) {
	t.Helper()
	eventually(t, limit, "all digests equal", func() bool {
		first := true
		var want [256]uint64
		return s.onAll(func(n *simNode) bool {
			if first {
				first, want = false, n.table.Fold()
			}
			return n.table.Fold() == want
		})()
	})
}

// simulate runs a test in a bubble, which sees to it that no goroutine is left.
func simulate(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
