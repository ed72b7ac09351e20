// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Kill is an order to all nodes about sessions that have been ended here already.
type Kill struct {
	IDs    []session.ID
	Report bool // wait until nodes tell what became of the connections, too
	// Progress is called with each node that has got further, from Kill's goroutine. Optional.
	Progress func(NodeKill)
}

// NodeKill is how far a node is with a kill.
type NodeKill struct {
	Node  string
	State MemberState // as membership sees it

	Sessions   int           // that it was told of
	Acked      int           // of these, durably ended there
	AckedAfter time.Duration // when the last acknowledgement came, from the start
	Reported   int           // of these, reported on

	Destroyed, Gone, Left int           // connections there
	Verified              bool          // sockets were listed there afterwards
	Took                  time.Duration // at the node, from the order to the end of its checks
	Err                   string        // what went wrong there

	// Silent: it did not answer for all sessions in time, or could not be reached. It is not known what it
	// does; once it is heard from again it learns of the ends.
	Silent bool
}

// Kill tells every node to end sessions that have been ended here (an id that has not is ignored), and waits
// until each has acknowledged, or ctx is done, or the default patience is over where ctx has no deadline. A
// node that is dead when it begins, or leaves, is not waited for; one that is taken for dead later is, as that
// may be for a moment only. Returns one result per node, by name. What is not acknowledged then is still
// sent until it is.
func (e *Engine) Kill(ctx context.Context, k Kill) []NodeKill {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, Patience)
		defer cancel()
	}
	t := e.newKill(k)
	e.kills.add(t)
	defer e.kills.remove(t)
	for _, n := range t.nodes {
		t.feed(n.peer)
	}
	for !t.tellProgress(k.Progress) {
		select {
		case <-t.changed:
		case <-ctx.Done():
			t.tellProgress(k.Progress)
			return t.results()
		}
	}
	return t.results()
}

// killTask is a kill that is under way.
type killTask struct {
	engine  *Engine
	number  uint64
	start   session.Instant
	over    atomic.Bool // Kill has returned
	items   []item
	ids     []session.ID // of items
	report  bool
	changed chan struct{}

	mu    sync.Mutex
	nodes map[string]*killNode
}

type killNode struct {
	NodeKill
	peer  *peer
	next  int             // of items, the first that was not put into its outbox
	parts map[uint64]bool // of its report
	news  bool            // that Progress was not told of
	lost  bool            // it is not waited for
}

// killWindow is how many orders of a kill wait in the outbox of a node at a time.
const killWindow = 1024

func (e *Engine) newKill(k Kill) *killTask {
	t := &killTask{engine: e, number: rand.Uint64() | 1, start: e.cfg.Clock.Boot(), report: k.Report,
		changed: make(chan struct{}, 1), nodes: map[string]*killNode{}}
	for _, r := range e.cfg.Table.Records(k.IDs) {
		if r.Revoked == nil {
			continue
		}
		if it, ok := e.encoded(encodeKill(t.number, &r, k.Report)); ok {
			t.items, t.ids = append(t.items, it), append(t.ids, r.ID)
		}
	}
	for _, p := range e.allPeers() {
		if state := p.is(); state != Left {
			t.nodes[p.name] = &killNode{peer: p, parts: map[uint64]bool{}, lost: !state.reachable(), news: true,
				NodeKill: NodeKill{Node: p.name, State: state, Sessions: len(t.items), Verified: k.Report}}
		}
	}
	return t
}

// feed puts further orders into the outbox of a node, as many as it has room for.
func (t *killTask) feed(p *peer) {
	t.mu.Lock()
	n := t.nodes[p.name]
	from, to := n.next, min(n.Acked+killWindow, len(t.items))
	if n.lost || to <= from {
		t.mu.Unlock()
		return
	}
	n.next = to
	t.mu.Unlock()
	now := t.engine.cfg.Clock.Boot()
	for i := from; i < to; i++ {
		p.outbox.drop(sessionKey(t.ids[i])) // the order says it
		t.engine.put(p, outboxKey{kind: itemKill, id: t.ids[i], n: t.number}, t.items[i], now, t, nil)
	}
}

// acked notes that a node has acknowledged one more order.
func (t *killTask) acked(p *peer) {
	t.mu.Lock()
	n := t.nodes[p.name]
	n.Acked++
	n.AckedAfter = t.engine.cfg.Clock.Boot().Sub(t.start)
	n.news = true
	more := n.Acked+killWindow >= n.next+killWindow/4
	t.mu.Unlock()
	if more {
		t.feed(p)
	}
	wake(t.changed)
}

// reported notes what a node reports.
func (t *killTask) reported(node string, r report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[node]
	if n == nil || n.parts[r.part] {
		return
	}
	n.parts[r.part] = true
	n.Reported = min(n.Reported+r.covered, n.Sessions)
	n.Destroyed, n.Gone, n.Left = n.Destroyed+r.destroyed, n.Gone+r.gone, n.Left+r.left
	n.Verified = n.Verified && !r.unverified
	n.Took = max(n.Took, r.took)
	n.Err = cmp.Or(n.Err, r.err)
	n.news = true
	wake(t.changed)
}

func (t *killTask) answeredLocked(n *killNode) bool {
	return n.Acked == n.Sessions && (!t.report || n.Reported == n.Sessions)
}

// tellProgress tells what is new, and reports whether all nodes have answered or gone.
func (t *killTask) tellProgress(progress func(NodeKill)) (finished bool) {
	var news []NodeKill
	t.mu.Lock()
	finished = true
	for _, n := range t.nodes {
		n.State = n.peer.is()
		n.lost = n.lost || n.State == Left
		if n.news {
			news = append(news, n.NodeKill)
			n.news = false
		}
		finished = finished && (n.lost || t.answeredLocked(n))
	}
	t.mu.Unlock()
	if progress != nil {
		slices.SortFunc(news, byNode)
		for _, n := range news {
			progress(n)
		}
	}
	return finished
}

func (t *killTask) results() []NodeKill {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]NodeKill, 0, len(t.nodes))
	for _, n := range t.nodes {
		n.Silent = !t.answeredLocked(n)
		n.Verified = n.Verified && !n.Silent
		list = append(list, n.NodeKill)
	}
	slices.SortFunc(list, byNode)
	if slices.ContainsFunc(list, func(n NodeKill) bool { return n.Silent }) {
		t.engine.cfg.Count(CountKillsSilent, 1)
	}
	return list
}

func byNode(a, b NodeKill) int { return cmp.Compare(a.Node, b.Node) }

// kills is all kills that are under way.
type kills struct {
	mu    sync.Mutex
	tasks map[uint64]*killTask
}

func (k *kills) add(t *killTask) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tasks[t.number] = t
}

func (k *kills) remove(t *killTask) {
	k.mu.Lock()
	delete(k.tasks, t.number)
	k.mu.Unlock()
	t.over.Store(true)
	for _, n := range t.nodes {
		n.peer.outbox.clean()
	}
}

// report hands a report to its kill, if that still waits.
func (k *kills) report(node string, r report) {
	k.mu.Lock()
	t := k.tasks[r.kill]
	k.mu.Unlock()
	if t != nil {
		t.reported(node, r)
	}
}

// lookAgain makes kills look who is there.
func (k *kills) lookAgain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range k.tasks {
		wake(t.changed)
	}
}
