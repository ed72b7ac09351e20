// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"sync"

	"github.com/curfew-proxy/curfew/agent/session"
)

// registry knows all connections from accept to account.
type registry struct {
	mu    sync.Mutex
	conns map[*conn]struct{}
	empty chan struct{} // closed when the last one leaves; nil unless somebody waits
}

func (r *registry) add(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		r.conns = make(map[*conn]struct{})
	}
	r.conns[c] = struct{}{}
}

func (r *registry) remove(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	if len(r.conns) == 0 && r.empty != nil {
		close(r.empty)
		r.empty = nil
	}
}

func (r *registry) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

// snapshot returns the connections alive now.
func (r *registry) snapshot() []*conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	conns := make([]*conn, 0, len(r.conns))
	for c := range r.conns {
		conns = append(conns, c)
	}
	return conns
}

// abortAll resets every connection; those that are still on their way in included.
func (r *registry) abortAll() {
	for _, c := range r.snapshot() {
		c.abort(causeDrain)
	}
}

// waitEmpty returns nil once no connection is left, or ctx's error.
func (r *registry) waitEmpty(ctx context.Context) error {
	r.mu.Lock()
	if len(r.conns) == 0 {
		r.mu.Unlock()
		return nil
	}
	if r.empty == nil {
		r.empty = make(chan struct{})
	}
	empty := r.empty
	r.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sibling returns the session of a relayed connection from c's address to c's service, or nil.
func (r *registry) sibling(c *conn) *session.Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	for other := range r.conns {
		if s := other.relaying.Load(); s != nil && other.service.Name == c.service.Name &&
			other.source.Addr() == c.source.Addr() {
			return s
		}
	}
	return nil
}
