// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/cluster"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/gossip/memnet"
)

// world is a cluster in a bubble, and what is known of it from outside.
type world struct {
	t     *testing.T
	run   run
	began time.Time
	net   *memnet.Network
	nodes []*node
	book  *book
	wait  sync.WaitGroup // what events have started

	// Only the driver uses these.
	cuts  map[[2]int]int                // how many reasons there are that nothing gets from one node to another
	conns map[*fact]*session.Connection // that its user uses
	tasks []task
	took  time.Duration // until all had stopped

	links  sync.Mutex
	linked []time.Time // by pair: since when two nodes have reached each other, both ways; zero: they do not

	rounds, pulled, silent atomic.Int64

	mu     sync.Mutex
	failed int
	trace  []string // the last events
}

// run is what a simulation is made of.
type run struct {
	nodes  int
	loss   float64
	seed   uint64
	chaos  time.Duration
	every  time.Duration // between two events, on average
	tick   time.Duration
	after  time.Duration // that it goes on when all know the same
	gentle bool          // nothing is cut and nobody restarts: what is measured is the cluster at work
}

func newWorld(t *testing.T, r run) *world {
	w := &world{t: t, run: r, began: time.Now(), cuts: map[[2]int]int{}, linked: make([]time.Time, r.nodes*r.nodes), conns: map[*fact]*session.Connection{},
		net: memnet.New(memnet.Config{Seed: r.seed, Latency: 300 * time.Microsecond, Jitter: 2 * time.Millisecond, Loss: r.loss, Duplicate: 0.05})}
	w.book = newBook(w)
	rng := rand.New(rand.NewPCG(r.seed, 2))
	for i := range r.nodes {
		w.nodes = append(w.nodes, newNode(w, i, time.Minute+time.Duration(rng.Int64N(int64(1000*time.Hour))),
			time.Duration(rng.Int64N(int64(24*time.Hour)))-12*time.Hour, rng.Int64N(201)-100))
	}
	return w
}

// now is the time that has passed.
func (w *world) now() time.Duration { return time.Since(w.began) }

const maxFailures = 12 // reported of a run

// fail reports that something is broken, with what led there.
func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed++
	switch {
	case w.failed == 1:
		w.t.Errorf("seed %d, N %d, loss %.1f, at %v: %s\nthe last events:\n\t%s\nto see it again: go test ./test/sim -run '%s' -seed %d",
			w.run.seed, w.run.nodes, w.run.loss, w.now(), fmt.Sprintf(format, args...), strings.Join(w.trace, "\n\t"), w.t.Name(), w.run.seed)
	case w.failed <= maxFailures:
		w.t.Errorf("at %v: "+format, append([]any{w.now()}, args...)...)
	}
}

// note keeps an event for a report.
func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.trace) == 40 {
		w.trace = w.trace[1:]
	}
	w.trace = append(w.trace, fmt.Sprintf("%v "+format, append([]any{w.now()}, args...)...))
}

// count is cluster.Config.Count.
func (w *world) count(name string, n int) {
	switch name {
	case cluster.CountRounds:
		w.rounds.Add(int64(n))
	case cluster.CountPulled:
		w.pulled.Add(int64(n))
	case cluster.CountKillsSilent:
		w.silent.Add(int64(n))
	case cluster.CountMalformed, cluster.CountTooLong, cluster.CountMergeErrors:
		w.fail("(0) %s", name)
	}
}

// cut adds a reason that nothing gets from one node to another, or takes one away.
func (w *world) cut(from, to int, cut bool) {
	way := [2]int{from, to}
	before := w.cuts[way]
	if cut {
		w.cuts[way]++
	} else {
		w.cuts[way]--
	}
	if (before > 0) != (w.cuts[way] > 0) {
		w.net.Cut(w.nodes[from].name, w.nodes[to].name, cut)
	}
}

// pair is where linked has two nodes.
func (w *world) pair(a, b *node) *time.Time {
	return &w.linked[min(a.index, b.index)*len(w.nodes)+max(a.index, b.index)]
}

// relink looks who reaches whom.
func (w *world) relink() {
	w.links.Lock()
	defer w.links.Unlock()
	lives := make([]*life, len(w.nodes))
	for i, n := range w.nodes {
		lives[i] = n.running()
	}
	for a, la := range lives {
		for b, lb := range lives[:a] {
			since := w.pair(w.nodes[a], w.nodes[b])
			if la == nil || lb == nil || w.cuts[[2]int{a, b}] > 0 || w.cuts[[2]int{b, a}] > 0 {
				*since = time.Time{}
			} else if since.IsZero() || since.Before(la.since) || since.Before(lb.since) {
				*since = time.Now()
			}
		}
	}
}

// together returns since when two nodes have reached each other; zero if they do not.
func (w *world) together(a, b *node) time.Time {
	if a == b {
		if l := a.running(); l != nil {
			return l.since
		}
		return time.Time{}
	}
	w.links.Lock()
	defer w.links.Unlock()
	return *w.pair(a, b)
}
