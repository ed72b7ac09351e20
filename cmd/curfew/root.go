// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/control"
)

// defaultSocket is where the agent's control socket is unless configured otherwise.
const defaultSocket = defaultRun + "/control.sock"

// defaultRun is the agent's run directory unless configured otherwise.
const defaultRun = "/run/curfew"

// app is one run of the program. Verbs are its methods newXCmd.
type app struct {
	out, err io.Writer
	output   string // "text" or "json"
	socket   string // the agent's control socket
	started  bool   // a verb is running: the command line was understood
}

// killLocal ends sessions by the pinned objects in the kernel, without any daemon. It is set by
// the file of the platform that can (kill_linux.go), in an init function; nil elsewhere.
var killLocal func(glass, api.KillRequest) (api.KillResult, error)

// glass says which agent of this host kill --local is about.
type glass struct{ run, instance string }

func (a *app) newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "curfew",
		Short: "Identity in front of any TCP service, and an end to every connection when its session ends",
		Long: `Curfew puts identity in front of any TCP service and ends every connection the moment
its session ends.

Exit codes: 0 done, 1 error, 2 wrong usage, 3 not everything could be killed or
verified, 4 the session has ended.`,
		Example: `  curfew services
  curfew sessions list
  curfew kill --subject alice --reason "laptop stolen"`,
		Version:           buildVersion().Version,
		SilenceErrors:     true, // report prints them
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		Args:              noVerb,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetVersionTemplate("curfew {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVarP(&a.output, "output", "o", "text", "how to print: text or json")
	flags.StringVar(&a.socket, "socket", cmp.Or(os.Getenv("CURFEW_SOCKET"), defaultSocket), "the agent's control socket")
	root.AddCommand(
		a.newServicesCmd(),
		a.newSessionsCmd(),
		a.newConnectionsCmd(),
		a.newEventsCmd(),
		a.newKillCmd(),
		a.newNodesCmd(),
		a.newClusterCmd(),
		a.newStreamsCmd(),
		a.newConfigCmd(),
		a.newVersionCmd(),
	)
	root.AddCommand(a.newLoginCmd(), a.newLogoutCmd(), a.newStatusCmd(), a.newConnectCmd())
	root.AddCommand(a.platformCmds()...)
	a.guard(root)
	return root
}

// guard makes every verb note that it has started, after a check of the flags that all have.
func (a *app) guard(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			if a.output != "text" && a.output != "json" {
				return fmt.Errorf("--output %q: want text or json", a.output)
			}
			a.started = true
			return run(c, args)
		}
	}
	for _, sub := range cmd.Commands() {
		a.guard(sub)
	}
}

// noVerb refuses arguments of a command that has verbs: they are misspelt verbs.
func noVerb(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	c.SuggestionsMinimumDistance = 2 // slips; cobra sets its default in one place only
	err := fmt.Errorf("%s has no verb %q", c.CommandPath(), args[0])
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		return hint(err, "did you mean: %s %s", c.CommandPath(), near[0])
	}
	return err
}

// client returns a client of the control socket.
func (a *app) client() *control.Client { return control.NewClient(a.socket) }
