// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Revalidation is how often a provider is asked whether it still stands by its word, and for how long its silence is
// borne.
type Revalidation struct {
	Every time.Duration // zero: never
	// Grace is how long a session may go on, beyond Every, while the provider does not answer; zero: for ever.
	Grace time.Duration
}

// Overdue is how long after the provider's last word a session ends for want of another; zero: never.
func (r Revalidation) Overdue() time.Duration {
	if r.Every == 0 || r.Grace == 0 {
		return 0
	}
	return r.Every + r.Grace
}

// retry is when to ask again after a provider did not answer, so many times before: when its grace is over at the latest.
func (r Revalidation) retry(now, asked time.Time, failures int) time.Time {
	next := now.Add(min(revalidateRest<<min(failures, 6), max(r.Every, time.Second)))
	if end := asked.Add(r.Overdue()); r.Overdue() > 0 && end.After(now) && end.Before(next) {
		return end
	}
	return next
}

// Validator takes note that a provider stands by a session, and what it says of the user now.
type Validator interface {
	// Validate is session.Table.Validate.
	Validate(id session.ID, who session.Identity) error
	// Identity returns what is known of the user of a live session.
	Identity(id session.ID) (session.Identity, bool)
}

const (
	revalidators   = 8
	revalidateRest = 30 * time.Second // after the first failure; doubles, up to the interval
)

// Revalidator asks providers, with the refresh tokens in the vault, whether they stand by the sessions that they began: a
// grant that is good no longer ends its session at once, and an outage when its grace is over. The agent that
// holds the tokens of a session is the only one that asks. Run it; Ask may be called by anyone.
type Revalidator struct {
	Providers *Providers
	Vault     *Vault
	Sessions  Sessions
	Validator Validator
	Log       *slog.Logger
	Count     func(event string)
}

// Run asks until ctx is done. It returns nil. Each provider has workers of its own: one that is silent holds up nobody else's
// sessions.
func (r *Revalidator) Run(ctx context.Context) error {
	r.Providers.each(ctx, r.run)
	return nil
}

func (r *Revalidator) run(ctx context.Context, p *Provider) {
	var workers errgroup.Group
	defer func() { _ = workers.Wait() }() // workers return no error
	workers.SetLimit(revalidators)
	for ctx.Err() == nil {
		s := p.settings.Load()
		look := time.NewTimer(s.cfg.Revalidation.pace())
		select {
		case <-ctx.Done():
		case <-s.replaced:
		case now := <-look.C:
			due := func(g *grant) bool { return g.provider == p && !g.next.IsZero() && !now.Before(g.next) }
			for _, g := range r.Vault.begin(due) {
				workers.Go(func() error { r.ask(ctx, g); return nil })
			}
		}
		look.Stop()
	}
}

// Ask asks the provider about sessions now, and returns when it has answered, how many of them were to be asked about. Those
// that it is being asked about already are asked about once more when it has answered: it may have looked too early.
func (r *Revalidator) Ask(ctx context.Context, which func(session.ID) bool) int {
	chosen := func(g *grant) bool { return which(g.session) }
	r.Vault.onceMore(chosen)
	list := r.Vault.begin(chosen)
	var workers errgroup.Group
	workers.SetLimit(revalidators)
	for _, g := range list {
		workers.Go(func() error { r.ask(ctx, g); return nil })
	}
	_ = workers.Wait() // they return no error
	return len(list)
}

// ask asks about one session, of which the vault knows that it is being asked about.
func (r *Revalidator) ask(ctx context.Context, g grant) {
	for again := true; again; {
		r.askOnce(ctx, g)
		g, again = r.Vault.release(g.session)
	}
}

func (r *Revalidator) askOnce(ctx context.Context, g grant) {
	log := r.Log.With("session", g.session, "provider", g.provider.Name())
	who, live := r.Validator.Identity(g.session)
	if !live {
		r.Vault.asked(g, Tokens{}, nil)
		return
	}
	asking, cancel := heardOut(ctx)
	defer cancel()
	tokens, now, err := g.provider.refresh(asking, g.tokens, who)
	switch {
	case ctx.Err() != nil && tokens.Empty() && !errors.Is(err, errRevoked):
		r.Vault.asked(g, tokens, ctx.Err())
		return
	case err == nil:
		r.Vault.asked(g, tokens, nil)
		if err = r.Validator.Validate(g.session, now); err != nil && session.ReasonOf(err) == session.ReasonInternal && !errors.Is(err, session.ErrNotFound) {
			log.Error("the provider stands by a session, and that could not be noted", "error", err)
		}
		r.Count(EventRevalidated)
		return
	case errors.Is(err, errRevoked):
		r.Vault.asked(g, tokens, err)
		r.Count(EventRevalidateRevoked)
		r.end(ctx, log, g, session.ReasonProvider, "the grant is revoked")
		return
	}
	r.Count(EventRevalidateFailed)
	silent := time.Since(g.asked)
	log.Warn("the provider cannot be asked about a session", "error", err, "for", silent.Round(time.Second))
	r.Vault.asked(g, tokens, err)
	if overdue := g.provider.config().Revalidation.Overdue(); overdue > 0 && silent >= overdue {
		r.end(ctx, log, g, session.ReasonUnvalidated, "the provider has not answered for "+silent.Round(time.Second).String())
	}
}

// lastWord is how long a provider has to answer when the agent stops.
const lastWord = 2 * time.Second

// heardOut is for a request whose answer must not be lost: it goes on for a moment when ctx ends. A provider that has replaced a
// token takes the use of the old one, after a restart, for theft.
func heardOut(ctx context.Context) (context.Context, context.CancelFunc) {
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), jose.Timeout)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lastWord, cancel) })
	return asking, func() { stop(); cancel() }
}

func (r *Revalidator) end(ctx context.Context, log *slog.Logger, g grant, why session.Reason, message string) {
	log.Warn("session ends", "reason", why, "message", message)
	end := session.End{Reason: why, By: g.provider.Issuer(), Message: message, At: time.Now()}
	if err := r.Sessions.End(context.WithoutCancel(ctx), g.session, end); err != nil {
		log.Error("end session", "error", err)
	}
}

// pace is how often to look for grants that are due: a fraction of the interval.
func (r Revalidation) pace() time.Duration {
	return max(min(cmp.Or(r.Every, time.Hour), time.Hour)/20, 50*time.Millisecond)
}
