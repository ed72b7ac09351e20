// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Providers are the OpenID providers of the configuration, which a reload replaces. It is safe for concurrent use.
type Providers struct {
	log *slog.Logger
	now atomic.Pointer[roll]
}

// roll is the providers of one configuration. Immutable.
type roll struct {
	list     []*Provider
	replaced chan struct{} // closed when another has taken its place
}

// NewProviders returns the providers that configs describe, without contacting any. Its errors name the provider.
func NewProviders(configs []Config, log *slog.Logger) (*Providers, error) {
	ps := &Providers{log: log}
	ps.now.Store(&roll{replaced: make(chan struct{})})
	take, err := ps.Prepare(configs)
	if err != nil {
		return nil, err
	}
	take()
	return ps, nil
}

// All returns the providers in the order of the configuration. Nobody may change the list.
func (ps *Providers) All() []*Provider { return ps.now.Load().list }

// named returns the provider of a name, or nil.
func (ps *Providers) named(name string) *Provider {
	for _, p := range ps.All() {
		if p.Name() == name {
			return p
		}
	}
	return nil
}

// Prepare checks a new configuration, and returns what takes it into service and says which providers were taken out. A
// provider with the same name, issuer and client ID is the same one: it goes on with other settings, also for sessions and
// sign-ins that are there. Any other is a new one, and what another gave is of no use to it. One is prepared and taken
// after the other.
func (ps *Providers) Prepare(configs []Config) (take func() (out []*Provider), err error) {
	next := &roll{replaced: make(chan struct{})}
	var changes []func()
	for _, c := range configs {
		p, change, err := ps.prepare(c)
		if err == nil && slices.ContainsFunc(next.list, func(q *Provider) bool { return q.Name() == c.Name }) {
			err = fmt.Errorf("the name is used twice")
		}
		if err != nil {
			return nil, fmt.Errorf("provider %s: %w", c.Name, err)
		}
		next.list, changes = append(next.list, p), append(changes, change)
	}
	return func() (out []*Provider) {
		for _, change := range changes {
			change()
		}
		old := ps.now.Swap(next)
		for _, p := range old.list {
			if !slices.Contains(next.list, p) {
				close(p.gone)
				out = append(out, p)
			}
		}
		close(old.replaced)
		return out
	}, nil
}

// prepare returns the provider that a configuration is of, and what makes it so.
func (ps *Providers) prepare(c Config) (p *Provider, change func(), err error) {
	p = ps.named(c.Name)
	if p == nil || !p.isOf(c.Name, c.Issuer, c.ClientID) {
		p, err = NewProvider(c, ps.log)
		return p, func() {}, err
	}
	next, err := newSettings(c)
	if err != nil {
		return nil, nil, err
	}
	now := p.settings.Load()
	if reflect.DeepEqual(now.cfg, next.cfg) {
		return p, func() {}, nil
	}
	if bytes.Equal(now.cfg.CA, next.cfg.CA) {
		next.client = now.client
	}
	return p, func() { p.take(next) }, nil
}

// isOf reports whether the provider is that registration. What was given to one is good for no other.
func (p *Provider) isOf(name, issuer, clientID string) bool {
	c := p.config()
	return c.Name == name && c.Issuer == issuer && c.ClientID == clientID
}

// TakenOut is the end of the sessions of a provider that the configuration has no more.
func TakenOut() session.End {
	return session.End{Reason: session.ReasonKilled, By: "configuration", Message: "its provider was taken out of the configuration", At: time.Now()}
}

// Run keeps all of them discovered until ctx is done. It returns nil.
func (ps *Providers) Run(ctx context.Context) error {
	ps.each(ctx, func(ctx context.Context, p *Provider) { _ = p.Run(ctx) }) // it returns nil
	return nil
}

// each runs do for every provider, from when it is there until it is taken out or ctx is done. It returns when all have
// returned.
func (ps *Providers) each(ctx context.Context, do func(context.Context, *Provider)) {
	var running sync.WaitGroup
	defer running.Wait()
	var begun []*Provider
	for ctx.Err() == nil {
		now := ps.now.Load()
		for _, p := range now.list {
			if slices.Contains(begun, p) {
				continue
			}
			part, stop := context.WithCancel(ctx)
			running.Go(func() { defer stop(); do(part, p) })
			running.Go(func() {
				defer stop()
				select {
				case <-part.Done():
				case <-p.gone:
				}
			})
		}
		begun = now.list
		select {
		case <-ctx.Done():
		case <-now.replaced:
		}
	}
}
