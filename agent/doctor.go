// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import "github.com/curfew-proxy/curfew/bpf"

// Finding is what this host offers of one thing that enforcement stands on.
type Finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"`
}

// Examine tries each layer of enforcement on connections of its own. The agent starts only if
// canStart. It moves the process between cgroups for that time: for a command, not for an agent.
func Examine() (findings []Finding, canStart bool) {
	layers := bpf.Probe()
	for _, item := range layers.Items() {
		findings = append(findings, Finding{item.Name, item.OK, item.Detail, item.Hint})
	}
	return findings, layers.Gate.OK
}
