// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"context"

	"github.com/curfew-proxy/curfew/agent/api"
)

// endAll ends what the last step left, so that the next round counts its own streams only.
func (p *player) endAll(ctx context.Context) error {
	_, err := p.control.Kill(ctx, api.KillRequest{All: true, Reason: "end of the round"})
	p.upstream.take()
	return err
}

// keep leaves everything running, and says what can be tried.
func (p *player) keep(ctx context.Context) {
	p.say("Everything keeps running until Ctrl-C. In another terminal, as root:\n")
	p.say("  export CURFEW_SOCKET=%s", p.path("run/control.sock"))
	p.say("  curfew login %s --accept-new      # user name: alice", p.gateway)
	p.say("  curfew connect stream -- sh -c 'cat </dev/tcp/{host}/{port}'")
	p.say("  curfew sessions; curfew connections; curfew events --follow")
	p.say("  curfew kill --subject alice --reason \"why not\"")
	p.say("  curfew kill --local --all --run %s\n", p.path("run"))
	p.say("The agent's log: %s", p.path("agent.log"))
	<-ctx.Done()
}
