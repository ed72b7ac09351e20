// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/client"
)

func (a *app) newLogoutCmd() *cobra.Command {
	var host string
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "End your session, and all its connections",
		Long: `End your session, and all its connections. The agent revokes what the identity provider
issued for it, and your key is wiped from this machine.`,
		Example: `  curfew logout
  curfew logout --agent db.example.com`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			agent, err := theirAgent(c.Context(), host)
			if err != nil {
				return err
			}
			out, err := client.Logout(c.Context(), agent)
			if err != nil {
				return coded(err)
			}
			if a.json() {
				return a.printJSON(out)
			}
			fmt.Fprintf(a.out, "signed out of %s\n", agent.Address)
			if !out.Revoked {
				fmt.Fprintln(a.out, "the identity provider has not confirmed yet; the agent goes on trying")
			}
			return nil
		},
	}
	agentFlag(cmd, &host)
	return cmd
}

func agentFlag(cmd *cobra.Command, host *string) {
	cmd.Flags().StringVar(host, "agent", "", "the agent; default: $"+agentEnv+", or the one of the last login")
}
