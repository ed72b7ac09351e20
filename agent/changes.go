// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"sync"

	"github.com/curfew-proxy/curfew/agent/session"
)

// changesKept is how many sessions have a change of their own remembered. It is more than change while a connection is on
// its way.
const changesKept = 4096

// changes remembers when policy was last to be asked again about live connections. One that was allowed before, and is
// registered only now, was not among them. The zero value is ready; safe for concurrent use.
type changes struct {
	mu  sync.Mutex
	all session.Instant // about those of all sessions
	of  map[session.ID]session.Instant
}

// note has to be called before the connections are looked up that policy is asked about: of all sessions if none is named.
func (c *changes) note(now session.Instant, ids ...session.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(ids) == 0 || len(c.of)+len(ids) > changesKept { // to ask once more does no harm
		c.all = max(c.all, now)
		clear(c.of)
		return
	}
	if c.of == nil {
		c.of = map[session.ID]session.Instant{}
	}
	for _, id := range ids {
		c.of[id] = max(c.of[id], now)
	}
}

// since reports whether something has changed, of what is known of a session or for all, at an instant or later.
func (c *changes) since(id session.ID, at session.Instant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.all, c.of[id]) >= at
}
