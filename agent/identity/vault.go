// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// How hard the vault tries to revoke tokens before it wipes them unrevoked.
const (
	revokeWorkers  = 4 // of each provider
	revokeAttempts = 5
	revokeBackoff  = 2 * time.Second // grows fourfold: tries span about three minutes
)

// Vault holds the provider's tokens of live sessions, in memory and, sealed, on the disk. It is safe for concurrent
// use. Whoever puts tokens in gives them away.
type Vault struct {
	log   *slog.Logger
	count func(event string)
	wake  chan struct{}
	seal  *sealer // nil: in memory only
	// OnWipe, if not nil, is called when tokens were wiped: copies of them are left to the garbage collector. Set it
	// before anything is put in; it must not block.
	OnWipe func()

	mu    sync.Mutex // guards the fields below
	held  map[session.ID]grant
	lanes map[*Provider]*lane
	// closed is set when Run has ended: what is held still is being asked about.
	closed bool
}

// lane is what is to be revoked at one provider: one that is silent holds up nobody else's. A lane that is empty is removed.
type lane struct {
	queue []grant // in no order
	busy  int     // workers
}

// grant is what one sign-in was given.
type grant struct {
	session  session.ID // zero if it never came to one
	provider *Provider
	tokens   Tokens
	attempts int
	due      time.Time

	// Of a session that lives; see Revalidator.
	asked    time.Time // when the provider last said that the grant is good
	rule     Revalidation
	next     time.Time // when to ask again, by that rule; zero: it is to be found out
	asking   bool
	again    bool // it is to be asked about once more when it is not
	failures int  // since it last answered
}

// NewVault returns an empty vault that keeps tokens in memory only. count, which may be nil, is told of each
// revocation.
func NewVault(log *slog.Logger, count func(event string)) *Vault {
	return &Vault{log: log, count: orIgnore(count), wake: make(chan struct{}, 1), held: map[session.ID]grant{}, lanes: map[*Provider]*lane{}}
}

// Put keeps the tokens of a session until its end.
func (v *Vault) Put(id session.ID, p *Provider, tokens Tokens) {
	g := grant{session: id, provider: p, tokens: tokens, asked: time.Now()}
	copied := g
	copied.tokens = g.tokens.clone() // whoever takes it out may wipe it at any time
	v.mu.Lock()
	v.held[id] = g
	v.mu.Unlock()
	v.persist(copied)
}

// persist seals what a grant has onto the disk, unless its session has ended meanwhile, and wipes it. Without that the
// session goes on, until the agent restarts.
func (v *Vault) persist(g grant) {
	err := v.seal.put(&g)
	g.tokens.Wipe()
	v.mu.Lock()
	_, held := v.held[g.session]
	v.mu.Unlock()
	if !held {
		v.seal.forget(g.session)
	}
	if err != nil {
		v.count(EventSealFailed)
		v.log.Error("tokens not stored: after a restart the provider cannot be asked about the session", "session", g.session, "error", err)
	}
}

// Holds reports whether the provider can be asked about a session with what it gave.
func (v *Vault) Holds(id session.ID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.held[id].tokens.Refresh) > 0
}

// Of returns the sessions for which a provider gave what is held.
func (v *Vault) Of(p *Provider) (list []session.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, g := range v.held {
		if g.provider == p {
			list = append(list, id)
		}
	}
	return list
}

// Take removes and returns the tokens of a session, and the provider that issued them. The
// caller owns them now.
func (v *Vault) Take(id session.ID) (*Provider, Tokens, bool) {
	g, ok := v.take(id)
	return g.provider, g.tokens, ok
}

func (v *Vault) take(id session.ID) (grant, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	g, ok := v.held[id]
	delete(v.held, id)
	return g, ok
}

// EndSession revokes the tokens of a session at the provider and wipes them. If the provider
// does not confirm, it returns why, and Run goes on trying. A session without tokens has nothing
// to revoke: nil. It may be called any number of times.
func (v *Vault) EndSession(ctx context.Context, id session.ID) error {
	g, ok := v.take(id)
	if !ok {
		return nil
	}
	return v.revokeNow(ctx, g)
}

func (v *Vault) revokeNow(ctx context.Context, g grant) error {
	err := v.revoke(ctx, &g)
	if err != nil && !errors.Is(err, ErrCannotRevoke) {
		v.enqueue(g)
	}
	return err
}

// EndLater does what EndSession does, but leaves the work to Run and does not block: it is for
// timers and kills.
func (v *Vault) EndLater(id session.ID) {
	if g, ok := v.take(id); ok {
		v.enqueue(g)
	}
}

// discard revokes and wipes tokens that never came to belong to a session.
func (v *Vault) discard(p *Provider, tokens Tokens) {
	if tokens.Empty() {
		tokens.Wipe()
		return
	}
	v.enqueue(grant{provider: p, tokens: tokens})
}

func (v *Vault) enqueue(g grant) {
	v.mu.Lock()
	v.enqueueLocked(g)
	v.mu.Unlock()
	v.look()
}

func (v *Vault) enqueueLocked(g grant) {
	l := v.lanes[g.provider]
	if l == nil {
		l = &lane{}
		v.lanes[g.provider] = l
	}
	l.queue = append(l.queue, g)
}

// look makes Run look at the queues.
func (v *Vault) look() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// Run revokes what is to be revoked until ctx is done, and then wipes all that is left. It
// returns nil.
func (v *Vault) Run(ctx context.Context) error {
	defer v.wipe()
	var workers sync.WaitGroup
	defer workers.Wait()
	for ctx.Err() == nil {
		g, wait, ok := v.next(time.Now())
		if ok {
			workers.Go(func() { v.work(ctx, g); v.done(g.provider) })
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-v.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// next takes a grant that is due off its queue, for a worker that its provider has left, or says how long to wait for one.
// done must be called when that is over.
func (v *Vault) next(now time.Time) (grant, time.Duration, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	wait := time.Hour
	for _, l := range v.lanes {
		if l.busy >= revokeWorkers {
			continue // done looks again
		}
		g, left, ok := l.take(now)
		if ok {
			l.busy++
			return g, 0, true
		}
		wait = min(wait, left)
	}
	return grant{}, wait, false
}

// take takes a grant that is due off the queue, or says how long to wait for one.
func (l *lane) take(now time.Time) (grant, time.Duration, bool) {
	wait := time.Hour
	for i, g := range l.queue {
		if left := g.due.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		last := len(l.queue) - 1
		l.queue[i] = l.queue[last]
		l.queue[last] = grant{}
		l.queue = l.queue[:last]
		return g, 0, true
	}
	return grant{}, wait, false
}

// done gives a provider's worker free.
func (v *Vault) done(p *Provider) {
	v.mu.Lock()
	if l := v.lanes[p]; l != nil { // else all was wiped meanwhile
		if l.busy--; l.busy == 0 && len(l.queue) == 0 {
			delete(v.lanes, p)
		}
	}
	v.mu.Unlock()
	v.look()
}

func (v *Vault) work(ctx context.Context, g grant) {
	err := v.revoke(ctx, &g)
	if err == nil || errors.Is(err, ErrCannotRevoke) {
		return
	}
	g.attempts++
	if g.attempts >= revokeAttempts {
		g.tokens.Wipe()
		v.seal.forget(g.session)
		v.count(EventRevokeGaveUp)
		v.log.Error("tokens wiped without being revoked", "session", g.session, "provider", g.provider.Name())
		return
	}
	g.due = time.Now().Add(revokeBackoff << (2 * (g.attempts - 1)))
	v.enqueue(g)
}

func (v *Vault) revoke(ctx context.Context, g *grant) error {
	err := g.provider.Revoke(ctx, &g.tokens)
	if v.OnWipe != nil {
		defer v.OnWipe()
	}
	switch {
	case err == nil:
		v.seal.forget(g.session)
		v.count(EventRevoked)
	case errors.Is(err, ErrCannotRevoke):
		v.seal.forget(g.session)
		v.count(EventRevokeImpossible)
	default:
		v.count(EventRevokeFailed)
		v.log.Warn("tokens not revoked", "session", g.session, "provider", g.provider.Name(), "error", err)
	}
	return err
}

func (v *Vault) wipe() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	for id, g := range v.held {
		g.tokens.Wipe()
		if v.held[id] = g; !g.asking { // else the answer is to go to the disk
			delete(v.held, id)
		}
	}
	for _, l := range v.lanes {
		for i := range l.queue {
			l.queue[i].tokens.Wipe()
		}
	}
	clear(v.lanes)
}

// forget wipes the tokens of a session from memory, and leaves them on the disk.
func (v *Vault) forget(id session.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	g := v.held[id]
	g.tokens.Wipe()
	delete(v.held, id)
}
