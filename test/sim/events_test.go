// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/curfew-proxy/curfew/agent/cluster"
	"github.com/curfew-proxy/curfew/agent/session"
)

// event is something that happens, drawn before the run begins: what it does depends on its own numbers and on the
// state of the world then.
type event struct {
	at   time.Duration // since the chaos began
	kind int
	rng  *rand.Rand // its own
}

// kinds are all events, and how often they happen.
var kinds = []struct {
	name   string
	weight int
	rough  bool // not in a gentle run
	do     func(*world, *rand.Rand)
}{
	{"create", 40, false, (*world).create},
	{"kill", 14, false, (*world).kill},
	{"raise", 2, false, (*world).raise},
	{"extend", 8, false, (*world).extend},
	{"move", 10, false, (*world).move},
	{"step", 4, false, (*world).step},
	{"restart", 3, true, (*world).restart},
	{"isolate", 2, true, (*world).isolate},
	{"one way", 3, true, (*world).oneWay},
	{"split", 1, true, (*world).split},
}

// schedule draws all events of a run.
func schedule(r run) (list []event) {
	rng := rand.New(rand.NewPCG(r.seed, 3))
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for at := time.Duration(0); at < r.chaos; at += time.Duration(rng.Int64N(int64(2 * r.every))) {
		e, x := event{at: at, rng: rand.New(rand.NewPCG(rng.Uint64(), 4))}, rng.IntN(total)
		for x >= kinds[e.kind].weight {
			x -= kinds[e.kind].weight
			e.kind++
		}
		if !kinds[e.kind].rough || !r.gentle {
			list = append(list, e)
		}
	}
	return list
}

// anyNode returns a node that serves, if one that is drawn does.
func (w *world) anyNode(rng *rand.Rand) (*node, *life) {
	n := w.nodes[rng.IntN(len(w.nodes))]
	l := n.running()
	if l == nil || !l.engine.Ready() {
		return n, nil
	}
	return n, l
}

// anyFact returns a session that lives at a node, or nil.
func (w *world) anyFact(rng *rand.Rand, l *life) *fact {
	from := max(len(w.book.list)-200, 0)
	list := w.book.list[from:]
	for range min(len(list), 20) {
		f := list[rng.IntN(len(list))]
		if _, err := l.table.ByID(f.id); err == nil {
			return f
		}
	}
	return nil
}

func draw(rng *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(rng.Int64N(int64(to-from)))
}

func (w *world) create(rng *rand.Rand) {
	n, l := w.anyNode(rng)
	s := session.Session{Identity: session.Identity{Issuer: "https://idp", Subject: fmt.Sprint("user", rng.IntN(30))}, Method: "browser"}
	for i := range 4 {
		binary.BigEndian.PutUint64(s.Key[8*i:], rng.Uint64())
	}
	copy(s.ID[:], s.Key[:])
	absolute, use := draw(rng, 15*time.Second, 4*time.Minute), draw(rng, 0, 4*time.Minute)
	if rng.IntN(2) == 0 {
		s.IdleTimeout = draw(rng, 10*time.Second, 40*time.Second)
	}
	if l != nil {
		w.make(n, l, s, absolute, use)
	}
}

func (w *world) make(n *node, l *life, s session.Session, absolute, use time.Duration) bool {
	s, err := l.table.Create(s, absolute)
	if err != nil {
		w.note("%s: create: %v", n.name, err)
		return false
	}
	w.note("%s: create %s until %v, idle %v", n.name, s.ID.Short(), w.now()+absolute, s.IdleTimeout)
	w.book.add(n, s, use)
	return true
}

func (w *world) extend(rng *rand.Rand) {
	n, l := w.anyNode(rng)
	if l == nil {
		return
	}
	old := w.anyFact(rng, l)
	if old == nil {
		return
	}
	s := session.Session{Key: old.key, Identity: session.Identity{Issuer: "https://idp", Subject: old.subject}, Method: "browser", Supersedes: old.id, IdleTimeout: old.idle}
	binary.BigEndian.PutUint64(s.ID[:], rng.Uint64())
	binary.BigEndian.PutUint64(s.ID[8:], rng.Uint64())
	w.book.mu.Lock()
	before := old.followed
	old.followed = true
	w.book.mu.Unlock()
	if w.make(n, l, s, draw(rng, 15*time.Second, 4*time.Minute), draw(rng, 0, 4*time.Minute)) {
		w.note("%s: it extends %s", n.name, old.id.Short())
		w.book.order(n, old)
		return
	}
	w.book.mu.Lock()
	old.followed = before
	w.book.mu.Unlock()
}

func (w *world) kill(rng *rand.Rand) {
	n, l := w.anyNode(rng)
	if l == nil {
		return
	}
	f := w.anyFact(rng, l)
	if f == nil {
		return
	}
	w.note("%s: kill %s", n.name, f.id.Short())
	w.book.mu.Lock()
	f.killed = true
	w.book.mu.Unlock()
	w.book.order(n, f)
	report := rng.IntN(2) == 0
	w.wait.Go(func() {
		if _, err := l.table.End(f.id, session.End{Reason: session.ReasonKilled, By: "root@" + n.name}); err != nil {
			return // it has ended meanwhile
		}
		w.killed(f, l.engine.Kill(context.Background(), cluster.Kill{IDs: []session.ID{f.id}, Report: report}))
	})
}

// killed checks that who says that it has ended a session has (8).
func (w *world) killed(f *fact, nodes []cluster.NodeKill) {
	for _, k := range nodes {
		if k.Sessions == 0 || k.Acked < k.Sessions {
			continue
		}
		for _, n := range w.nodes {
			if n.name != k.Node {
				continue
			}
			if l := n.running(); l != nil {
				if _, err := l.table.ByID(f.id); err == nil {
					w.fail("(8) %s acknowledged the end of %s, which lives there", n.name, f.id.Short())
				}
			}
		}
	}
}
