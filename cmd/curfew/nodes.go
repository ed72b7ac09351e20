// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/api"
)

func (a *app) newNodesCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes of the cluster, as this one sees them",
		Long: `List the nodes of the cluster, as this one sees them. WALL is how far the node's wall
clock is ahead of this one's: nothing depends on it. CLOCK bounds the error with
which deadlines are translated between the two. COMPARED is when both last made sure
that they know the same sessions. WAITING counts messages that the node has not
acknowledged.

The exit code is 0 if every node that has not left answers and there is a majority, 1
otherwise.`,
		Example: `  curfew nodes
  curfew nodes -o json | jq -r '.nodes[] | select(.state != "alive") | .name'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			info, err := a.client().Nodes(c.Context())
			if err != nil {
				return err
			}
			if a.json() {
				if err := a.printJSON(info); err != nil {
					return err
				}
			} else if err := a.printNodes(info); err != nil {
				return err
			}
			return clusterVerdict(info)
		},
	}
}

func (a *app) printNodes(info api.ClusterInfo) error {
	t := newTable(a.out, "NODE", "ADDRESS", "STATE", "SESSIONS", "CONNECTIONS", "ROUND TRIP", "CLOCK", "WALL", "COMPARED", "WAITING", "VERSION")
	for _, n := range info.Nodes {
		name, state := n.Name, n.State
		if n.Self {
			name += " (this one)"
		}
		if n.State != api.NodeAlive && !n.Since.IsZero() {
			state += " " + span(time.Since(n.Since))
		}
		t.row(name, n.Address, state, strconv.Itoa(n.Sessions), strconv.Itoa(n.Connections),
			orNone(n.RoundTrip), within(n.ClockError), ahead(n), compared(n), strconv.Itoa(n.Unacknowledged), n.Version)
	}
	if err := t.flush(); err != nil {
		return err
	}
	majority := "a majority answers"
	if !info.Majority {
		majority = "NO MAJORITY answers since " + info.Since.Local().Format(time.DateTime)
		if len(info.Suspended) > 0 {
			majority += "; strict services refuse: " + strings.Join(info.Suspended, ", ")
		}
	}
	_, err := fmt.Fprintf(a.out, "cluster %s: %s\n", clean(info.ID[:min(shortID, len(info.ID))]), clean(majority))
	return err
}

// shortID is how much of a cluster's name is shown to people.
const shortID = 12

func orNone(d api.Seconds) string {
	if d == 0 {
		return ""
	}
	return precise(d.Duration())
}

func within(d api.Seconds) string {
	if d == 0 {
		return ""
	}
	return "±" + precise(d.Duration())
}

func ahead(n api.NodeInfo) string {
	if n.Self || n.RoundTrip == 0 {
		return ""
	}
	d := n.WallOffset.Duration()
	if d < 0 {
		return "-" + precise(-d)
	}
	return "+" + precise(d)
}

func compared(n api.NodeInfo) string {
	if n.Self {
		return ""
	}
	return ago(n.Compared)
}

// clusterVerdict is nil only if the cluster is whole.
func clusterVerdict(info api.ClusterInfo) error {
	var absent []string
	for _, n := range info.Nodes {
		if n.State == api.NodeDead || n.State == api.NodeSuspect {
			absent = append(absent, n.Name)
		}
	}
	switch {
	case !info.Ready:
		return hint(fmt.Errorf("this node has not heard from another yet, and refuses everybody until then"),
			"check that the others run and reach it; to serve by what it knows alone, set cluster: {start_alone: true}")
	case len(absent) > 0:
		return hint(fmt.Errorf("no answer from %s", strings.Join(absent, ", ")),
			"they learn what they missed when they come back; one that does not: curfew cluster remove %s", absent[0])
	case !info.Majority:
		return hint(fmt.Errorf("no majority of the cluster answers"), "strict services refuse connections; see: curfew events")
	}
	return nil
}
