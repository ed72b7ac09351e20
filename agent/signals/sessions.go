// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"errors"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Sessions carries out what others say. It must be safe for concurrent use.
type Sessions interface {
	// End ends every session that matches, on every node, durably when it returns, also those that are being
	// created. It returns how many ended on this node.
	End(ctx context.Context, m session.Match, end session.End) (int, error)
	// EndUntilFresh does what End does, and from then on a sign-in of whoever is meant makes a session only if the provider
	// has authenticated them at an instant or later, which it says.
	EndUntilFresh(ctx context.Context, m session.Match, end session.End, since time.Time) (int, error)
	// Reconsider asks the provider and policy again about every session that matches; what can no longer be had
	// ends. It returns how many sessions it is about on this node.
	Reconsider(ctx context.Context, m session.Match) (int, error)
}

// order is what becomes of sessions.
type order int

const (
	leave order = iota // nothing; the least
	reconsider
	end
	endUntilFresh // the most
)

// carryOut does what was ordered at an instant to the sessions that match any of whom, and returns how many those are. With an
// error some have been left out: the order has to be given again.
func carryOut(ctx context.Context, s Sessions, o order, whom []session.Match, because session.End, at time.Time) (total int, all error) {
	for _, m := range whom {
		var n int
		var err error
		switch o {
		case end:
			n, err = s.End(ctx, m, because)
		case endUntilFresh:
			n, err = s.EndUntilFresh(ctx, m, because, at)
		case reconsider:
			n, err = s.Reconsider(ctx, m)
		}
		total, all = total+n, errors.Join(all, err)
	}
	return total, all
}
