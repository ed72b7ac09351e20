// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent"
)

func (a *app) newDoctorCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host can enforce, by trying it",
		Long: `Say what this host can enforce, by trying each of the four layers on connections of
its own over loopback: destroying sockets, sweeping them with a BPF iterator, the gate
that lets no packet of an ended session through, and the stack's own timers.

The exit code is 0 if all of them work, 3 if something is missing that the agent can do
without, and 1 if the agent would refuse to start. It needs root.`,
		Example: `  sudo curfew doctor
  sudo curfew doctor -o json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.doctor() },
	}
}

func (a *app) doctor() error {
	list, canStart := agent.Examine()
	all := !slices.ContainsFunc(list, func(f agent.Finding) bool { return !f.OK })
	if a.json() {
		if err := a.printJSON(list); err != nil {
			return err
		}
	} else if err := a.printFindings(list); err != nil {
		return err
	}
	switch {
	case !canStart:
		return hint(errors.New("without the gate the agent refuses to start"), "mend it, or decide for: enforcement: userspace")
	case !all:
		return &hinted{err: errors.New("something is missing that the agent can do without"), code: exitLeft, hint: "see the hints above"}
	}
	return nil
}

func (a *app) printFindings(list []agent.Finding) error {
	t := newTable(a.out, "WHAT", "WORKS", "DETAIL", "HINT")
	for _, f := range list {
		works := "yes"
		if !f.OK {
			works = "NO"
		}
		t.row(f.Name, works, f.Detail, f.Hint)
	}
	return t.flush()
}
