// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/curfew-proxy/curfew/agent/session"
)

// described has the sessions of which a provider says other things than before: policy is to be asked again about
// their connections. Safe for concurrent use; run must be running.
type described struct {
	mu   sync.Mutex
	ids  map[session.ID]bool
	wake chan struct{} // has room for one
}

func newDescribed() *described {
	return &described{ids: map[session.ID]bool{}, wake: make(chan struct{}, 1)}
}

// note is session.TableConfig.OnIdentity.
func (d *described) note(s session.Session) {
	d.mu.Lock()
	d.ids[s.ID] = true
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run calls ask with all sessions that were noted since it was called last, until ctx is done.
func (d *described) run(ctx context.Context, ask func(context.Context, ...session.ID)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		}
		d.mu.Lock()
		ids := d.ids
		d.ids = map[session.ID]bool{}
		d.mu.Unlock()
		ask(ctx, slices.Collect(maps.Keys(ids))...)
	}
}
