// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/curfew-proxy/curfew/agent"
	"github.com/curfew-proxy/curfew/agent/api"
)

func init() {
	killLocal = func(which glass, req api.KillRequest) (api.KillResult, error) {
		return agent.KillLocal(agent.BreakGlass{Run: which.run, Instance: which.instance}, req)
	}
}
