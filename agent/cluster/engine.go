// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Engine is one node's part in the cluster. It is safe for concurrent use; until Run is called, and after it
// has returned, it takes what it is told and does nothing.
//
// A local change goes: Changed -> outbox of each live peer -> deliver -> Network.Send, until acknowledged. What
// others tell comes: Receive -> inbox -> Table.Merge -> acknowledgement. Behind that: gossip (Broadcast,
// Gossiped), and anti-entropy (Request, Serve).
type Engine struct {
	cfg   Config
	self  session.Origin
	epoch uint64 // names this run; never zero

	inbox   *inbox
	seen    *seen
	recent  *recentEndings
	reports *reporter
	kills   *kills
	finds   *finds
	quorum  *quorum
	told    *raising
	marks   markLists
	serving servingToken
	taking  atomic.Pointer[peer] // whom it takes many sessions over from; nil: nobody

	lifetime context.Context // ends when Run returns; of what others asked for
	end      context.CancelFunc

	deliveries, exchanges *agenda

	syncWake, quorumWake chan struct{}

	mu    sync.Mutex
	peers map[string]*peer
	live  []*peer // see livePeers
	ready bool

	changing sync.Mutex // one look at the members at a time
}

// maxPeers bounds what members' names make the engine remember.
const maxPeers = 4096

// New returns an engine that is not running.
func New(cfg Config) (*Engine, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	e := &Engine{
		cfg: cfg, self: cfg.Timebase.Self(), epoch: rand.Uint64() | 1,
		inbox: newInbox(), seen: newSeen(), recent: newRecentEndings(recentRoom), told: &raising{},
		finds:      newFinds(),
		deliveries: newAgenda(), exchanges: newAgenda(),
		syncWake: make(chan struct{}, 1), quorumWake: make(chan struct{}, 1),
		peers: map[string]*peer{}, ready: cfg.Alone,
	}
	e.lifetime, e.end = context.WithCancel(context.Background())
	e.kills = &kills{tasks: map[uint64]*killTask{}}
	e.reports = newReporter(e)
	e.quorum = newQuorum(e.self.Node, cfg.Peers, cfg.Clock.Boot())
	for _, name := range cfg.Peers {
		e.peer(name)
	}
	return e, nil
}

// Run does the engine's work until ctx is done, and returns nil when all of its goroutines have ended.
func (e *Engine) Run(ctx context.Context) error {
	defer e.end()
	defer context.AfterFunc(ctx, e.end)()
	var wg sync.WaitGroup
	for i := range e.inbox.urgent {
		wg.Go(func() { e.work(ctx, &e.inbox.urgent[i]) })
	}
	for i := range e.inbox.normal {
		wg.Go(func() { e.work(ctx, &e.inbox.normal[i]) })
	}
	wg.Go(func() { e.work(ctx, &e.inbox.rest) })
	for range reporters {
		wg.Go(func() { e.reports.run(ctx) })
	}
	wg.Go(func() { e.deliveries.run(ctx, e.cfg.Clock, e.deliver) })
	wg.Go(func() { e.exchanges.run(ctx, e.cfg.Clock, e.exchange) })
	wg.Go(func() { e.exchangeInTurn(ctx) })
	wg.Go(func() { e.syncLoop(ctx) })
	wg.Go(func() { e.retryLoop(ctx) })
	wg.Go(func() { e.quorumLoop(ctx) })
	e.MembersChanged()
	wg.Wait()
	return nil
}

// peer returns the peer of this name; nil if that is this node, or if there are too many.
func (e *Engine) peer(name string) *peer {
	if name == e.self.Node || name == "" || len(name) > maxNode {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.peers[name]
	if p == nil && len(e.peers) < maxPeers {
		p = newPeer(name)
		e.peers[name] = p
	}
	return p
}

// allPeers returns the other nodes that are known, in no order.
func (e *Engine) allPeers() []*peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]*peer, 0, len(e.peers))
	for _, p := range e.peers {
		list = append(list, p)
	}
	return list
}

// livePeers returns those to whom it is worth sending something, by name. It is asked often: the list is everybody's,
// and is not to be changed.
func (e *Engine) livePeers() []*peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.live
}

// MembersChanged looks at the membership again. It is to be called when a member came, went or changed.
func (e *Engine) MembersChanged() {
	e.lookAtMembers()
	wake(e.quorumWake)
	e.kills.lookAgain()
	wake(e.syncWake)
}

func (e *Engine) lookAtMembers() {
	e.changing.Lock()
	defer e.changing.Unlock()
	states := map[string]MemberState{}
	for _, m := range e.cfg.Membership.Members() {
		states[m.Name] = m.State
		e.peer(m.Name)
	}
	now := e.cfg.Clock.Boot()
	var live, appeared []*peer
	for _, p := range e.allPeers() {
		state, ok := states[p.name]
		if !ok {
			state = Absent
		}
		if e.becomes(p, state, now) {
			appeared = append(appeared, p)
		}
		if state.reachable() {
			live = append(live, p)
		}
	}
	slices.SortFunc(live, func(a, b *peer) int { return strings.Compare(a.name, b.name) })
	e.mu.Lock()
	e.live = live
	e.mu.Unlock()
	for _, p := range appeared {
		e.deliveries.add(p, now)
		e.exchanges.add(p, now)
	}
	e.quorum.update(states, now)
}

// becomes notes what membership believes of a peer, and reports whether it appeared.
func (e *Engine) becomes(p *peer, state MemberState, now session.Instant) (appeared bool) {
	p.mu.Lock()
	before := p.state
	p.state = state
	if before != state {
		p.since = now
	}
	appeared = state.reachable() && !before.reachable()
	if appeared {
		p.appearLocked()
		p.burst = newPeerBurst
	}
	p.mu.Unlock()
	if state.reachable() != before.reachable() {
		p.outbox.setOpen(state.reachable())
	}
	if state == Left && before == Absent || state == Absent && before == Left {
		e.mu.Lock()
		delete(e.peers, p.name)
		e.mu.Unlock()
	}
	return appeared
}

// Forget takes a node that was removed from the cluster out of what makes a majority, and out of Nodes.
func (e *Engine) Forget(node string) {
	e.quorum.forget(node)
	e.mu.Lock()
	if p := e.peers[node]; p != nil && !p.is().reachable() {
		delete(e.peers, node)
	}
	e.mu.Unlock()
	e.MembersChanged()
}

// Ready reports whether clients may be accepted: whether this node knows what it missed while it was not
// running, because a round of anti-entropy with some member was completed, or because it is alone.
func (e *Engine) Ready() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ready
}

func (e *Engine) becomeReady() {
	e.mu.Lock()
	was := e.ready
	e.ready = true
	e.mu.Unlock()
	if !was && e.cfg.OnReady != nil {
		e.cfg.OnReady()
	}
}

// writer begins a message that carries items.
func (e *Engine) writer() *stateWriter { return newStateWriter(e.self, e.epoch, e.cfg.Timebase.remote) }

// send sends a packet. What is lost is sent again by whoever waits for an answer.
func (e *Engine) send(to string, data []byte) {
	e.cfg.Count(CountSent, 1)
	_ = e.cfg.Network.Send(to, data) // an error says no more than that it is lost
}

// deliver sends what is due to one peer, and returns when there is more.
func (e *Engine) deliver(p *peer, now session.Instant) session.Instant {
	packets, again, next := p.outbox.take(now, p.roundTrip(), e.writer)
	for _, b := range packets {
		e.send(p.name, b)
	}
	if again > 0 {
		e.cfg.Count(CountRetransmits, again)
	}
	if p.outbox.overflowed() {
		e.cfg.Count(CountOverflow, 1)
		p.mu.Lock()
		p.appeared = true
		p.mu.Unlock()
		wake(e.syncWake)
	}
	return next
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleepUntil waits until an instant, or until it is woken; zero: until it is woken. It returns false when
// ctx is done.
func sleepUntil(ctx context.Context, clock session.Clock, at session.Instant, woken <-chan struct{}) bool {
	var timer <-chan time.Time
	if at != 0 {
		t := time.NewTimer(at.Sub(clock.Boot()))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
	case <-woken:
	case <-ctx.Done():
		return false
	}
	return ctx.Err() == nil
}

// Publish tells every node of a document; a later one of the same kind and name replaces it on the way.
// Returns an error if it is too long.
func (e *Engine) Publish(name string, d Document) error {
	it, err := encodeDocument(d)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	e.tell(outboxKey{kind: itemOpaque, n: uint64(d.Kind), name: name}, it, 0, nil)
	e.gossip(fmt.Sprintf("o/%d/%s", d.Kind, name), it)
	return nil
}
