// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/api"
)

func (a *app) newClusterCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Change who is in the cluster",
		Long: `Change who is in the cluster. List its nodes with: curfew nodes.

Nodes of a cluster trust each other wholly: each may end sessions, make them, and let
other nodes in.`,
		Example: `  curfew cluster token                  # on a node of the cluster
  curfew agent --join curfew-join-1.…   # on the next one`,
		Args: noVerb,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	cmd.AddCommand(a.newClusterTokenCmd(), a.newClusterRemoveCmd(), a.newClusterRotateCmd())
	return cmd
}

func (a *app) newClusterTokenCmd() *cobra.Command {
	var req api.TokenRequest
	ttl := time.Hour
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a token that lets another node join",
		Long: `Make a token that lets another node join. It is a secret: whoever has it can become a
node, until it is used up or has expired. It names where to join and how to know the
cluster, so that nothing else is needed.`,
		Example: `  curfew cluster token
  curfew cluster token --uses 4 --ttl 10m
  curfew cluster token --replace    # for a node that has lost its state directory`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if ttl <= 0 || req.Uses < 1 {
				return usage("--ttl and --uses must be above zero")
			}
			req.TTL = api.Seconds(ttl)
			res, err := a.client().ClusterToken(c.Context(), req)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(res)
			}
			fmt.Fprintln(a.out, res.Token)
			_, err = fmt.Fprintf(a.err, "good for %s until %s; on the other node: curfew agent --join TOKEN\n",
				count(req.Uses, "node"), res.Expires.Local().Format(time.DateTime))
			return err
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", ttl, "how long it is good for")
	cmd.Flags().IntVar(&req.Uses, "uses", 1, "how many nodes may join with it")
	cmd.Flags().BoolVar(&req.Replace, "replace", false, "let a node take a name that is known with another key")
	return cmd
}

func (a *app) newClusterRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NODE",
		Short: "Put a node out of the cluster, for good",
		Long: `Put a node out of the cluster, for good: no other node talks to it any more, and the
cluster makes new keys for its authority, since the node knew the old ones. The node
itself goes on enforcing the deadlines that it knows; stop it first where you can.

It can come back under the same name only with: curfew cluster token --replace.`,
		Example: `  curfew cluster remove node3`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.changeCluster(c, api.ClusterChange{Remove: args[0]}, clean(args[0])+" is out")
		},
	}
}

func (a *app) newClusterRotateCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "Make new keys for the cluster's authority",
		Long: `Make new keys for the cluster's authority, and new certificates for all nodes. Nothing
is interrupted: the old ones are believed until every node has new ones. Certificates
of nodes are renewed by themselves, without this.`,
		Example: `  curfew cluster rotate`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.changeCluster(c, api.ClusterChange{Rotate: true}, "new keys are on their way to all nodes")
		},
	}
}

func (a *app) changeCluster(c *cobra.Command, change api.ClusterChange, done string) error {
	info, err := a.client().ChangeCluster(c.Context(), change)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(info)
	}
	_, err = fmt.Fprintln(a.out, done)
	return err
}
