// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/api"
)

func (a *app) newEventsCmd() *cobra.Command {
	var follow bool
	var since uint64
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print what happens: sign-ins, connections, ends, kills",
		Long: `Print what has happened lately, and with --follow what happens from now on: sign-ins,
connections and why they were refused or ended, kills. The agent keeps the last events
in memory only; a follower that is too slow is told how many it has missed. With
-o json, each event is a line of its own.`,
		Example: `  curfew events --follow
  curfew events --follow -o json | jq 'select(.type == "connection-refused")'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			print := a.printEvent
			if a.json() {
				enc := json.NewEncoder(a.out)
				enc.SetEscapeHTML(false)
				print = func(ev api.Event) error { return enc.Encode(ev) }
			}
			return a.client().Events(c.Context(), since, follow, print)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	cmd.Flags().Uint64Var(&since, "since", 0, "only events after this sequence number")
	return cmd
}

// printEvent prints an event as one line of facts.
func (a *app) printEvent(ev api.Event) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-20s", ev.Time.Local().Format("15:04:05.000"), ev.Type)
	fact := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, " %s=%s", name, clean(value))
		}
	}
	if !ev.Session.IsZero() {
		fact("session", ev.Session.Short())
	}
	fact("who", ev.Subject)
	fact("service", ev.Service)
	if ev.Source.IsValid() {
		fact("from", ev.Source.String())
	}
	fact("reason", string(ev.Reason))
	fact("by", ev.By)
	fact("decision", ev.Decision)
	if ev.Lost > 0 {
		fmt.Fprintf(&b, " %d events were missed", ev.Lost)
	}
	if ev.Detail != "" {
		b.WriteString(" " + clean(ev.Detail))
	}
	_, err := fmt.Fprintln(a.out, b.String())
	return err
}
