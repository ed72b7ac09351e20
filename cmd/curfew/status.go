// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/client"
)

func (a *app) newStatusCmd() *cobra.Command {
	var host string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show your session and how much time it has left",
		Long: `Show your session and how much time it has left, and the services that you may use. If
it has ended, say why; the exit code is 4 then.`,
		Example: `  curfew status
  curfew status -o json | jq .session.left_seconds`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			agent, err := theirAgent(c.Context(), host)
			if err != nil {
				return err
			}
			return a.status(c, agent)
		},
	}
	agentFlag(cmd, &host)
	return cmd
}

// ownStatus is what status prints as JSON.
type ownStatus struct {
	Agent    client.Address `json:"agent"`
	Session  api.Session    `json:"session"`
	Services []api.Service  `json:"services"`
}

func (a *app) status(c *cobra.Command, agent *client.Agent) error {
	s, err := client.Status(c.Context(), agent)
	if err != nil {
		return coded(err)
	}
	st := ownStatus{Agent: agent.Address, Session: s, Services: []api.Service{}}
	if s.Ended == nil {
		signedIn, err := agent.SignedIn()
		if err != nil {
			return coded(err)
		}
		if st.Services, err = signedIn.Services(c.Context()); err != nil {
			return err
		}
	}
	if err := a.printStatus(st); err != nil {
		return err
	}
	if s.Ended != nil {
		return coded(client.Ended(s))
	}
	return nil
}

func (a *app) printStatus(st ownStatus) error {
	if a.json() {
		return a.printJSON(st)
	}
	s := st.Session
	if s.Ended != nil {
		return nil // the error says it all
	}
	fmt.Fprintf(a.out, "%s at %s, session %s\n", clean(s.Identity.Display()), st.Agent, s.ID.Short())
	fmt.Fprintf(a.out, "%s left", span(s.Left.Duration()))
	if s.IdleTimeout > 0 {
		fmt.Fprintf(a.out, "; each use extends that to %s, until %s at the latest", span(s.IdleTimeout.Duration()), s.Deadline.Local().Format(time.DateTime))
	}
	names := make([]string, len(st.Services))
	for i, svc := range st.Services {
		names[i] = clean(svc.Name)
		if svc.Missing != "" {
			names[i] += " (after curfew login --service " + clean(svc.Name) + ")"
		}
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	_, err := fmt.Fprintf(a.out, "\nservices: %s\n", strings.Join(names, ", "))
	return err
}
