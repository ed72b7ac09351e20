// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"errors"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
)

// What follows when the session table or the kernel tells of a session.

// moved is session.TableConfig.OnMove.
func (p *proxyProcess) moved(id session.ID, number uint64) {
	err := p.gate.move(id, number)
	switch {
	case errors.Is(err, bpf.ErrGone):
		p.lost(id)
	case err != nil:
		p.log.Error("session deadline not moved in the kernel: it ends at the old one", "session", id, "error", err)
	}
}

// followed is session.TableConfig.OnSupersede. Its connections are asked about anew: the identity that signed in
// again may be in other groups.
func (p *proxyProcess) followed(o session.Takeover) {
	if err := p.gate.follow(o); errors.Is(err, bpf.ErrGone) {
		p.lost(o.New.ID)
	} else if err != nil {
		p.log.Error("the kernel did not take over a session: it ends at the old deadline", "session", o.New.ID, "error", err)
	}
	p.log.Info("session followed by another", "session", o.Old.ID, "by", o.New.ID, "connections", len(o.Conns))
	if len(o.Conns) == 0 {
		return
	}
	select {
	case p.takeovers <- o:
	default: // many at once: this one takes its time here
		p.reauthoriseAll(context.Background(), livesOf(o.New, o.Conns))
	}
}

// askAgain asks policy about the connections of sessions that were followed by others.
func (p *proxyProcess) askAgain(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-p.takeovers:
			p.reauthoriseAll(ctx, livesOf(o.New, o.Conns))
		}
	}
}

// lost ends a session whose entry in the kernel was removed beneath us: kill --local, which does not
// ask the agent.
func (p *proxyProcess) lost(id session.ID) {
	_, err := p.table.End(id, session.End{Reason: session.ReasonKilled, By: "kill --local"})
	var over *session.EndedError
	if err != nil && !errors.As(err, &over) {
		p.log.Error("session ended locally", "session", id, "error", err)
	}
}

// cut ends one connection of a session that goes on.
func (p *proxyProcess) cut(ctx context.Context, c *session.Connection) {
	if err := p.terminator.cut(ctx, c); err != nil {
		p.log.Error("connection not ended", "session", c.Session(), "connection", c.ID, "error", err)
	}
}
