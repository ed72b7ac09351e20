// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/control"
)

func (a *app) newConnectionsCmd() *cobra.Command {
	var f control.ConnectionFilter
	cmd := &cobra.Command{
		Use:   "connections",
		Short: "List the live connections of this node, oldest first",
		Long: `List the live connections of this node, oldest first. SENT is what the client has
sent, RECEIVED what it was sent. With -o json, both legs are there with their addresses
and socket cookies.`,
		Example: `  curfew connections --service db
  curfew connections --session 4n6q2x -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.client().Connections(c.Context(), f)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(list)
			}
			return a.printConnections(list)
		},
	}
	cmd.Flags().StringVar(&f.Session, "session", "", "only those of this session (ID or its beginning)")
	cmd.Flags().StringVar(&f.Service, "service", "", "only those to this service")
	cmd.Flags().StringVar(&f.Subject, "subject", "", "only those of this subject")
	return cmd
}

func (a *app) printConnections(list []api.ConnectionInfo) error {
	t := newTable(a.out, "SESSION", "WHO", "SERVICE", "FROM", "TO", "OPENED", "ACTIVE", "SENT", "RECEIVED")
	for _, c := range list {
		t.row(c.Session.Short(), c.Subject, c.Service, c.Source.String(), c.Upstream.Tuple.Remote.String(),
			ago(c.Opened), ago(c.LastActive), bytesText(c.BytesFromClient), bytesText(c.BytesFromUpstream))
	}
	return t.flush()
}
