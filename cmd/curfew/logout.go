// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/client"
)

func (a *app) newLogoutCmd() *cobra.Command {
	var host string
	var provider, noBrowser bool
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "End your session, and all its connections",
		Long: `End your session, and all its connections. The agent revokes what the identity provider
issued for it, and your key is wiped from this machine. With --provider, your browser
signs out at the identity provider, too, and with it perhaps of other things.`,
		Example: `  curfew logout
  curfew logout --agent db.example.com
  curfew logout --provider`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			agent, err := theirAgent(c.Context(), host)
			if err != nil {
				return err
			}
			out, err := client.Logout(c.Context(), agent, provider)
			if err != nil {
				return coded(err)
			}
			if a.json() {
				return a.printJSON(out)
			}
			fmt.Fprintf(a.out, "signed out of %s\n", agent.Address)
			switch {
			case out.Irrevocable:
				fmt.Fprintln(a.out, "the identity provider cannot revoke what it gave the agent, which has wiped it")
			case !out.Revoked:
				fmt.Fprintln(a.out, "the identity provider has not confirmed yet; the agent goes on trying")
			}
			if provider {
				a.leaveProvider(out.Provider, !noBrowser)
			}
			return nil
		},
	}
	agentFlag(cmd, &host)
	cmd.Flags().BoolVar(&provider, "provider", false, "sign out at the identity provider, too, in your browser")
	cmd.Flags().BoolVar(&noBrowser, "no-browser", false, "with --provider: print the page's address instead of opening it")
	return cmd
}

// leaveProvider shows the page at which the user signs out at the provider.
func (a *app) leaveProvider(page string, open bool) {
	switch {
	case page == "":
		fmt.Fprintln(a.out, "the identity provider has no page to sign out at")
	case !open || client.OpenBrowser(page) != nil:
		fmt.Fprintf(a.out, "to sign out at the identity provider, too, open this in your browser:\n\n  %s\n", page)
	default:
		fmt.Fprintln(a.out, "your browser signs out at the identity provider")
	}
}

func agentFlag(cmd *cobra.Command, host *string) {
	cmd.Flags().StringVar(host, "agent", "", "the agent; default: $"+agentEnv+", or the one of the last login")
}
