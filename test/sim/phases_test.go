// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

type task struct {
	at time.Duration
	do func()
}

// later does something when so much time has passed; the driver does.
func (w *world) later(after time.Duration, do func()) {
	w.tasks = append(w.tasks, task{w.now() + after, do})
}

// pass lets a tick pass, and looks at everything.
func (w *world) pass() {
	before := w.now()
	time.Sleep(w.run.tick)
	if w.run.nodes > 100 && before/time.Second != w.now()/time.Second { // it takes a while
		w.t.Logf("%v simulated", w.now().Truncate(time.Second))
	}
	w.tasks = slices.DeleteFunc(w.tasks, func(t task) bool {
		due := w.now() >= t.at
		if due {
			t.do()
		}
		return due
	})
	w.relink()
	w.use()
	w.check()
}

// until lets time pass until something holds, and reports whether it did in time.
func (w *world) until(within time.Duration, holds func() bool) bool {
	for from := w.now(); !holds(); w.pass() {
		if w.now()-from > within {
			return false
		}
	}
	return true
}

// startAll starts all nodes, and waits until they know each other.
func (w *world) startAll() {
	for i, n := range w.nodes {
		n.start()
		if i%100 == 99 { // not all in the same instant
			time.Sleep(w.run.tick)
		}
	}
	if !w.until(5*time.Minute, w.whole) {
		w.fail("the nodes do not find each other")
	}
}

// whole reports whether all nodes serve, and see all others.
func (w *world) whole() bool {
	for _, n := range w.nodes {
		if l := n.running(); l == nil || !l.engine.Ready() || l.sees() < len(w.nodes) {
			return false
		}
	}
	return true
}

// chaos lets everything happen that is to.
func (w *world) chaos() {
	from := w.now()
	for _, e := range schedule(w.run) {
		for w.now() < from+e.at {
			w.pass()
		}
		w.book.events++
		kinds[e.kind].do(w, e.rng)
	}
}

// heal mends all ways, waits for nodes that are down, and looks at what the cluster has become.
func (w *world) heal() {
	w.note("healed")
	for _, t := range w.tasks {
		t.do()
	}
	w.tasks = nil
	down := func(n *node) bool { return n.away.Load() }
	if !w.until(time.Minute, func() bool { return !slices.ContainsFunc(w.nodes, down) }) {
		w.fail("%s does not come back", w.nodes[slices.IndexFunc(w.nodes, down)].name)
		return
	}
	if !w.until(agreeing, w.agreed) {
		w.fail("(4) %v after healing not all nodes know the same; %s", agreeing, w.disagreement())
	}
	w.checkLives()
	for from := w.now(); w.now() < from+w.run.after; {
		w.pass()
	}
}

// agreed reports whether all nodes know the same.
func (w *world) agreed() bool {
	want := w.nodes[0].running().table.Fold()
	for _, n := range w.nodes[1:] {
		if n.running().table.Fold() != want {
			return false
		}
	}
	return true
}

// disagreement says who knows what of some sessions that the first node knows other things of than others.
func (w *world) disagreement() (s string) {
	var ids []session.ID
	for _, f := range w.book.list {
		ids = append(ids, f.id)
	}
	first := map[session.ID]string{}
	for _, n := range w.nodes {
		l := n.running()
		s += fmt.Sprintf("\n\t%s: %d sessions, sees %d", n.name, l.table.Count(), l.sees())
		said := map[session.ID]string{}
		for _, r := range l.table.Records(ids) {
			said[r.ID] = fmt.Sprintf("deadline %d, active %d, revoked %+v, tombstone %v", r.Deadline, r.Active, r.Revoked, r.Tombstone())
		}
		if n.index == 0 {
			first = said
		}
		for _, id := range ids {
			if said[id] != first[id] {
				s += fmt.Sprintf("\n\t\t%s: %q, not %q", id.Short(), said[id], first[id])
			}
		}
	}
	return s
}

// checkLives is about sessions that nothing has ended: they live everywhere (7).
func (w *world) checkLives() {
	for _, f := range w.book.list {
		if f.over || time.Until(f.deadline) < time.Second || w.book.raised(f) {
			continue
		}
		if f.idle > 0 && (time.Since(f.used) > f.idle-markSlack || f.user.running().since.After(f.used)) { // what it knew before a restart may be lost
			continue
		}
		for _, n := range w.nodes {
			if _, err := n.running().table.ByID(f.id); err != nil {
				w.fail("(7) %s: session %s, which nothing has ended: %v; idle %v, used %v ago at %s", n.name, f.id.Short(), err, f.idle, time.Since(f.used), f.user.name)
			}
		}
	}
}

// stop ends all nodes, and waits for memberlist's own timers.
func (w *world) stop() {
	w.wait.Wait()
	for _, n := range w.nodes {
		w.wait.Go(func() { n.stop(true) })
	}
	w.wait.Wait()
	w.took = w.now()
	time.Sleep(time.Minute)
}

// figures is a line for people.
func (w *world) figures() string {
	packets, bytes := 0, 0
	for _, n := range w.nodes {
		packets += n.sent.Packets
		bytes += n.sent.PacketBytes + n.sent.StreamBytes
	}
	per := float64(len(w.nodes)) * w.took.Seconds()
	b := w.book
	return fmt.Sprintf("N %d, loss %.1f, seed %d: %d events, %d sessions, %d kills, worst kill %v, latest connection %v, %d idle cuts from apart, %d doubts, %d rounds, %d records pulled, %.0f packets and %.0f bytes per node and s, %.0f s simulated",
		len(w.nodes), w.run.loss, w.run.seed, b.events, len(b.list), b.kills, b.worst, b.late, b.elsewhere, b.doubts, w.rounds.Load(), w.pulled.Load(), float64(packets)/per, float64(bytes)/per, w.took.Seconds())
}
