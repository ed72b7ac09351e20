// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"errors"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// The node at which somebody signed in asks the provider about the session; should that node be gone, every other ends
// the session when the provider's last word is too old. They give it a little longer than the one that asks does.

// overdueLook is how often to look for such sessions, in parts of the time that they have.
const overdueLook = 20

// overdue returns, by issuer, how long after the provider's last word a session ends.
func (b *bundle) overdue() map[string]time.Duration {
	list := map[string]time.Duration{}
	for _, p := range b.providers(b.Config.URL) {
		if after := p.Revalidation.Overdue(); after > 0 {
			list[p.Issuer] = after
		}
	}
	return list
}

// endOverdue ends sessions about which no provider has been asked for too long, until ctx is done.
func (p *proxyProcess) endOverdue(ctx context.Context) error {
	if p.cluster == nil { // the one that asks is this one, and sees to it
		<-ctx.Done()
		return nil
	}
	for {
		limits := p.bundle.Load().overdue()
		timer := time.NewTimer(overduePause(limits))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		for _, s := range overdueOf(p.table, p.cluster.time, p.clock.Boot(), limits) {
			end := session.End{Reason: session.ReasonUnvalidated, By: s.Identity.Issuer, Message: "nobody has asked the provider about it", At: p.clock.Wall()}
			_, err := p.table.End(s.ID, end)
			var over *session.EndedError
			if err != nil && !errors.As(err, &over) {
				p.log.Error("end a session about which nobody asks", "session", s.ID, "error", err)
			}
		}
	}
}

// overduePause is how long to wait before looking again. After a reload has made the limits shorter, it is the old one once more.
func overduePause(limits map[string]time.Duration) time.Duration {
	shortest := overdueLook * time.Minute
	for _, after := range limits {
		shortest = min(shortest, after)
	}
	return max(shortest/overdueLook, time.Second)
}

// overdueOf returns the live sessions of which the provider's last word is older than it may be, and some.
func overdueOf(table *session.Table, base session.Timebase, now session.Instant, limits map[string]time.Duration) (list []session.Session) {
	if len(limits) == 0 {
		return nil // without a look at all sessions
	}
	late := func(s session.Session, _ []*session.Connection) bool {
		after := limits[s.Identity.Issuer]
		if after == 0 || s.Validated == 0 {
			return false
		}
		at, known := base.Local(s.Origin, s.Validated)
		return known && now.Sub(at) > after+after/overdueLook
	}
	for _, found := range table.Select(session.Selector{Where: late}, false) {
		list = append(list, found.Session)
	}
	return list
}
