// SPDX-License-Identifier: Apache-2.0

package opinion

import (
	"errors"
	"fmt"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Config is how the engine of a service is asked.
type Config struct {
	Service string
	URL     string        // of the document to ask for: https://HOST/v1/data/PACKAGE/RULE
	Timeout time.Duration // of one request, with all that belongs to it; at most jose.Timeout
	Cache   time.Duration // how long a yes is kept; 0: not at all
	Token   string        // a bearer token; empty: none is sent
	CA      []byte        // PEM; empty: the system's
}

// Engines has the engines of all services that have one, with their answers. A reload makes a new one, which knows
// no answers. Safe for concurrent use.
type Engines struct {
	node   string
	clock  session.Clock
	byName map[string]*engine
}

// New returns the engines. Node is how this node is called in questions; count is told what came of each, without
// blocking.
func New(list []Config, node string, clock session.Clock, count func(service, outcome string)) (*Engines, error) {
	es := &Engines{node: node, clock: clock, byName: make(map[string]*engine, len(list))}
	var errs []error
	for _, c := range list {
		roots, err := jose.Roots(c.CA)
		if err != nil {
			errs = append(errs, fmt.Errorf("policy engine of service %q: %w", c.Service, err))
			continue
		}
		es.byName[c.Service] = &engine{
			url: c.URL, token: c.Token, timeout: c.Timeout, client: jose.NewHTTPClient(roots),
			count:  func(outcome string) { count(c.Service, outcome) },
			asking: make(chan struct{}, maxAsking),
			cache:  cache{life: c.Cache, clock: clock, kept: map[key]kept{}},
		}
	}
	return es, errors.Join(errs...)
}

// Has reports whether the service has an engine.
func (es *Engines) Has(service string) bool { return es.byName[service] != nil }

// Ask returns nil if the engine of the service allows the session to begin a connection, or the service has none, and
// a *session.Refusal with ReasonDenied in every other case. Decision is how the engine's log calls the decision, if it
// said so. It waits for as long as the timeout of the engine.
func (es *Engines) Ask(q Question) (decision string, err error) {
	e := es.byName[q.Service]
	if e == nil {
		return "", nil
	}
	a, err := e.decide(newInput(q, es.node, es.clock.Wall()), &e.flight, 0, false)
	return a.decision, refusal(a, err)
}

// refusal is what an answer means for a connection; nil if it is let through.
func refusal(a answer, err error) error {
	switch {
	case err != nil:
		return session.Refuse(session.ReasonDenied, fmt.Errorf("the policy engine gave no decision: %w", err))
	case a.allow:
		return nil
	case a.reason != "":
		return session.Refuse(session.ReasonDenied, errors.New("the policy engine does not allow it: "+a.reason))
	}
	return session.Refuse(session.ReasonDenied, errors.New("the policy engine does not allow it"))
}

// CloseIdle closes connections that are not in use.
func (es *Engines) CloseIdle() {
	for _, e := range es.byName {
		e.client.CloseIdleConnections()
	}
}
