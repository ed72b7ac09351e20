// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/demo"
)

func (a *app) newDemoCmd() *cobra.Command {
	c := demo.Config{Terminal: isTerminal(a.out)}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it work on this machine, in under a minute",
		Long: `See it work on this machine: an OpenID provider and a service that streams for ever are
started, with a real agent in front. A user signs in and opens endless streams; at the
deadline you see how many connections were destroyed, how late, and that no byte came
after it. Then once more with the agent's proxy process stopped. Then three agents, in
network namespaces where they can be had, become a cluster: a kill at one cuts a session's
streams through all.

It needs root, uses loopback only, cleans up after itself, and fails if something is
not as promised.`,
		Example: `  sudo curfew demo
  sudo curfew demo --streams 500
  sudo curfew demo --keep`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Out = a.out
			if a.json() {
				c.Out, c.Terminal = io.Discard, false
			}
			results, err := demo.Run(cmd.Context(), c)
			if a.json() && len(results) > 0 {
				return errors.Join(a.printJSON(results), err)
			}
			return err
		},
	}
	cmd.Flags().IntVar(&c.Streams, "streams", 50, "how many streams each round opens")
	cmd.Flags().DurationVar(&c.Session, "session", 0, "how long a session lasts (default 6s)")
	cmd.Flags().BoolVar(&c.Keep, "keep", false, "leave everything running afterwards, to try things by hand")
	return cmd
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
