// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// fact is what is true of a session, by the time of the bubble.
type fact struct {
	id             session.ID
	key            session.Key
	subject        string
	born, deadline time.Time
	idle           time.Duration
	follows        *fact // whose connections it takes over

	// Guarded by the book.
	goes     *node // where its user will use it next; of the driver alone
	user     *node // where it was used last
	used     time.Time
	uses     map[*node]time.Time // when each node was used last
	useUntil time.Time
	killed   bool // somewhere
	followed bool // by a session that takes over from it
	doubted  bool // its end was: see doubtLocked
	over     bool // it has ended, or was to end, on purpose or for idleness
}

// order is something that is to end a session everywhere.
type order struct {
	fact *fact
	by   *node
	at   time.Time
	left map[*node]bool // where it has not been seen to end
	new  map[*node]bool // which had not heard of it: word of its end may reach them first
}

// book knows all sessions and what is to become of them.
type book struct {
	world *world

	mu     sync.Mutex
	facts  map[session.ID]*fact
	list   []*fact
	orders []*order // that some node has not followed yet
	done   []*order
	marks  map[string][]time.Time // when the watermark of a subject was raised

	events, kills int
	worst         time.Duration // that a kill took, to a node that could be reached
	late          time.Duration // that a connection lived past its session's deadline
	doubts        int           // sessions that were taken to be older than a watermark, wrongly
	elsewhere     int           // sessions in use that were cut for idleness by a node that knew nothing of it
}

func newBook(w *world) *book {
	return &book{world: w, facts: map[session.ID]*fact{}, marks: map[string][]time.Time{}}
}

// add notes a session that was created at a node.
func (b *book) add(n *node, s session.Session, useFor time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := &fact{id: s.ID, key: s.Key, subject: s.Identity.Subject, born: n.when(s.Born), deadline: n.when(s.Ends), idle: s.IdleTimeout,
		follows: b.facts[s.Supersedes], goes: n, user: n, used: time.Now(), uses: map[*node]time.Time{n: time.Now()}, useUntil: time.Now().Add(useFor)}
	b.facts[f.id] = f
	b.list = append(b.list, f)
}

// order notes that a node is about to end a session everywhere.
func (b *book) order(by *node, f *fact) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.orderLocked(by, f)
}

func (b *book) orderLocked(by *node, f *fact) {
	b.kills++
	f.over = true
	o := &order{fact: f, by: by, at: time.Now(), left: map[*node]bool{}, new: map[*node]bool{}}
	for _, n := range b.world.nodes {
		o.left[n] = true
	}
	b.orders = append(b.orders, o)
}

// markSlack is how far apart two clocks may be taken to be.
const markSlack = 100 * time.Millisecond

// raise notes that a node is about to end all sessions of a subject.
func (b *book) raise(by *node, subject string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.marks[subject] = append(b.marks[subject], now)
	for _, f := range b.list {
		if f.subject == subject && !f.over && f.born.Add(markSlack).Before(now) && now.Before(f.deadline) {
			b.orderLocked(by, f)
		}
	}
}

// settled returns the sessions that have ended on all nodes but perhaps n.
func (b *book) settled(n *node) (ids []session.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range b.done {
		ids = append(ids, o.fact.id)
	}
	for _, o := range b.orders {
		if len(o.left) == 1 && o.left[n] {
			ids = append(ids, o.fact.id)
		}
	}
	return ids
}

// use notes that a session is used at a node now.
func (b *book) use(f *fact, n *node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f.user, f.used, f.uses[n] = n, time.Now(), time.Now()
}

// noteEnd judges the end of a session at a node.
func (b *book) noteEnd(n *node, e session.Ending) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, now := b.facts[e.Session.ID], time.Now()
	if f == nil {
		return // its creation is under way
	}
	just, reason := true, e.Session.Ended.Reason
	switch reason {
	case session.ReasonKilled:
		just = f.killed
	case session.ReasonSuperseded:
		just = f.followed || b.rivalLocked(f)
	case session.ReasonWatermark:
		just = b.raised(f) || b.doubtLocked(f)
	case session.ReasonAbsolute:
		just = !now.Before(f.deadline.Add(-driftOf(f) - markSlack))
	case session.ReasonIdle:
		just = b.idleLocked(n, f, now)
	default:
		just = false
	}
	if !just {
		b.world.fail("(5, 7) %s: session %s ends for %s, used %v ago at %s, %v before its deadline, idle %v, linked %v", n.name, f.id.Short(), reason,
			now.Sub(f.used), f.user.name, f.deadline.Sub(now), f.idle, now.Sub(b.world.together(n, f.user)))
	}
}

// rivalLocked reports whether another session may have taken the place of one: nodes that did not reach each other
// both let theirs take over from the same, and of the two one stays.
func (b *book) rivalLocked(f *fact) bool {
	rival := slices.ContainsFunc(b.list, func(g *fact) bool { return g != f && g.key == f.key && !f.comesFrom(g) })
	f.over = f.over || rival
	return rival
}

// doubtLocked reports whether a session may be taken to be older than a watermark that it is younger than: a node that
// cannot compare the two clocks, as after a restart, does so, and what it ends then is ended everywhere.
func (b *book) doubtLocked(f *fact) bool {
	if len(b.marks[f.subject]) == 0 {
		return false
	}
	if !f.doubted {
		f.doubted, f.over = true, true
		b.doubts++
	}
	return true
}

// idleLocked reports whether it is right that a node cuts a session for idleness. What another has cut before is
// cut everywhere.
func (b *book) idleLocked(n *node, f *fact, now time.Time) bool {
	if f.over {
		return true
	}
	f.over = true
	if !now.Before(f.used.Add(f.idle - markSlack)) {
		return true
	}
	if b.knowsUses(n, f, now) {
		return false // (5)
	}
	b.elsewhere++
	return true
}

// knowsUses reports whether a node must know of all uses of a session since it would have been idle: what one node
// has told, another that has heard it does not tell again, and what a node knew before a restart may be lost.
func (b *book) knowsUses(n *node, f *fact, now time.Time) bool {
	for user, at := range f.uses {
		if now.Sub(at) > f.idle {
			continue
		}
		since, l := b.world.together(n, user), user.running()
		if since.IsZero() || now.Sub(since) <= agreeing || l.since.After(at) {
			return false
		}
	}
	return true
}

// driftOf is by how much clocks may differ on the lifetime of a session.
func driftOf(f *fact) time.Duration { return f.deadline.Sub(f.born) / 5000 }

// raised reports whether a session may have been born before a watermark of its subject.
func (b *book) raised(f *fact) bool {
	return slices.ContainsFunc(b.marks[f.subject], func(at time.Time) bool { return f.born.Before(at.Add(markSlack)) })
}

// comesFrom reports whether a session took over from another, or from one that did.
func (f *fact) comesFrom(g *fact) bool {
	return f.follows != nil && (f.follows == g || f.follows.comesFrom(g))
}

// lastUsedLocked is when a session was used last, or one of the same key, whose connections it may have taken over.
func (b *book) lastUsedLocked(f *fact) (at time.Time) {
	for _, g := range b.list {
		if g.key == f.key {
			at = later(at, g.used)
		}
	}
	return at
}
