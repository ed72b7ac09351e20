// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
)

// Config is what New needs.
type Config struct {
	Transmitters []Transmitter
	Provisioners []Provisioner
	Webhooks     []Webhook

	Sessions Sessions
	Log      *slog.Logger
	Count    func(event string) // may be nil; the events are in outcomes.go
	Now      func() time.Time   // the wall clock; default: time.Now
	// Before is what took them in until now, or nil. The events that it remembers are remembered.
	Before *Signals
}

// Signals takes in what others tell us. It is an http.Handler for all paths below Paths, and belongs behind TLS: who may
// say something proves it with a bearer token. It is safe for concurrent use.
type Signals struct {
	cfg          Config
	receivers    map[string]*receiver
	provisioners map[string]*provisioner
	hooks        []hook
	doors        struct{ push, scim, kill door } // who is limited at one is not at the others
	mux          *http.ServeMux
}

// Paths are those that a Signals serves, and everything below those that end in a slash.
func Paths() []string { return []string{api.PathSignals, api.PathKill, api.PathSCIM} }

// New returns what serves c.
func New(c Config) (*Signals, error) {
	if c.Count == nil {
		c.Count = func(string) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Signals{cfg: c, receivers: map[string]*receiver{}, provisioners: map[string]*provisioner{}, mux: http.NewServeMux()}
	s.doors.push.now, s.doors.scim.now, s.doors.kill.now = c.Now, c.Now, c.Now
	for _, t := range c.Transmitters {
		if err := s.addTransmitter(t); err != nil {
			return nil, fmt.Errorf("transmitter %s: %w", t.Name, err)
		}
	}
	for _, p := range c.Provisioners {
		if err := s.addProvisioner(p); err != nil {
			return nil, fmt.Errorf("provisioner %s: %w", p.Name, err)
		}
	}
	for _, w := range c.Webhooks {
		if err := s.addHook(w); err != nil {
			return nil, fmt.Errorf("webhook %s: %w", w.Name, err)
		}
	}
	s.cfg.Before = nil // or each would hold on to all before it
	s.mux.HandleFunc("POST "+api.PathSignals+"{name}", s.push)
	s.mux.HandleFunc("POST "+api.PathKill, s.kill)
	s.routeScim()
	return s, nil
}

func (s *Signals) addTransmitter(t Transmitter) error {
	r, err := newReceiver(t, &s.cfg)
	if err != nil {
		return err
	}
	if s.receivers[t.Name] != nil {
		return fmt.Errorf("name: a second one is called %q", t.Name)
	}
	if b := s.cfg.Before; b != nil && b.receivers[t.Name] != nil && b.receivers[t.Name].cfg.Issuer == t.Issuer {
		r.seen = b.receivers[t.Name].seen.keepFor(r.seen.keep)
	}
	s.receivers[t.Name] = r
	return nil
}

func (s *Signals) addHook(w Webhook) error {
	if err := w.Validate(); err != nil {
		return err
	}
	for i := range s.hooks {
		if s.hooks[i].cfg.Name == w.Name {
			return fmt.Errorf("name: a second one is called %q", w.Name)
		}
	}
	for _, token := range w.Tokens {
		if h := s.hookOf(token); h != nil {
			return fmt.Errorf("tokens: webhook %s has the same", h.cfg.Name)
		}
	}
	s.hooks = append(s.hooks, hook{w, secretsOf(w.Tokens)})
	return nil
}

// ServeHTTP implements http.Handler.
func (s *Signals) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.TLS == nil { // it was wired up wrongly: anybody could read the tokens
		writeError(w, http.StatusForbidden, api.CodeForbidden, "this is served over TLS only")
		return
	}
	s.mux.ServeHTTP(w, r)
}

// Run polls those transmitters that are to be polled, until ctx is done; it returns nil then. In a cluster it is enough that
// one node does: what several do at once is done several times.
func (s *Signals) Run(ctx context.Context) error {
	var group sync.WaitGroup
	for _, r := range s.receivers {
		if r.cfg.PollURL != "" {
			group.Go(func() { newPoller(r).run(ctx) })
		}
	}
	group.Wait()
	<-ctx.Done()
	return nil
}
