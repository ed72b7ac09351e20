// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/api"
)

// killFlags is what kill is told.
type killFlags struct {
	req   api.KillRequest
	wait  time.Duration // zero: what the agent thinks right
	local bool
	which glass
}

func (a *app) newKillCmd() *cobra.Command {
	var f killFlags
	cmd := &cobra.Command{
		Use:   "kill [SESSION]",
		Short: "End sessions now, with all their connections, and prove it",
		Long: `End sessions now: refuse new connections, destroy both sockets of every live one, then
list the sockets and say what was found. SESSION is an ID or the beginning of one; the
selectors narrow each other, and --all is needed to end everything.

In a cluster the sessions end on every node, and each says what it destroyed. Nodes that
cannot be reached learn of it when they come back; they are named.

The exit code is 0 only if nothing is left: 1 if nothing matched, 3 if something could
not be killed, nobody could verify that it was, or a node was silent.

With --local (root), sessions are ended through the objects in the kernel, without
asking the agent: for when it hangs.`,
		Example: `  curfew kill 4n6q2x
  curfew kill --subject alice --reason "laptop stolen"
  curfew kill --service db --where 'connections.exists(c, now - c.opened > duration("8h"))'
  curfew kill --group contractors --dry-run
  curfew kill --all --wait 30s      # nodes may take that long to answer
  curfew kill 4n6q2x --no-wait      # do not wait for them at all
  curfew kill --local --all`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				f.req.Session = args[0]
			}
			if f.wait <= 0 && c.Flags().Changed("wait") {
				return usage("--wait must be above zero; to wait for no node: --no-wait")
			}
			f.req.Patience = api.Seconds(f.wait)
			return a.kill(c.Context(), f.req, f.local, f.which)
		},
	}
	f.add(cmd)
	return cmd
}

func (f *killFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.req.Subject, "subject", "", "sessions of this subject")
	flags.StringVar(&f.req.Group, "group", "", "sessions of members of this group")
	flags.StringVar(&f.req.Service, "service", "", "sessions with a live connection to this service")
	flags.StringVar(&f.req.Where, "where", "", "sessions for which this CEL expression is true")
	flags.BoolVar(&f.req.All, "all", false, "every session")
	flags.StringVar(&f.req.Reason, "reason", "", "why; users see it, and the audit log keeps it")
	flags.BoolVar(&f.req.DryRun, "dry-run", false, "say what would be ended, and end nothing")
	flags.DurationVar(&f.wait, "wait", 0, "how long other nodes of the cluster may take to answer (default 5s and 1ms a session)")
	flags.BoolVar(&f.req.NoWait, "no-wait", false, "do not wait for other nodes of the cluster")
	cmd.MarkFlagsMutuallyExclusive("wait", "no-wait")
	flags.BoolVar(&f.local, "local", false, "without the agent, by the kernel's objects alone")
	flags.StringVar(&f.which.run, "run", defaultRun, "with --local: the agent's run directory")
	flags.StringVar(&f.which.instance, "instance", "", "with --local: the agent's name, where several are on this host")
}

func (a *app) kill(ctx context.Context, req api.KillRequest, local bool, which glass) error {
	switch others := (api.KillRequest{All: true, Reason: req.Reason, DryRun: req.DryRun, NoWait: req.NoWait, Patience: req.Patience}); {
	case req.Empty():
		return &hinted{err: errors.New("nothing is selected"), code: exitUsage,
			hint: "name a session, --subject, --group, --service or --where; --all ends every session"}
	case req.All && req != others:
		return usage("--all and another selector contradict each other")
	}
	kill := a.client().Kill
	if local {
		if killLocal == nil {
			return hint(errors.New("this system cannot kill without the agent"), "only Linux can; leave out --local")
		}
		kill = func(_ context.Context, req api.KillRequest) (api.KillResult, error) { return killLocal(which, req) }
	}
	res, err := kill(ctx, req)
	if errors.Is(err, context.Canceled) {
		return hint(err, "the agent finishes what it has begun; see: curfew events")
	}
	if err != nil {
		return err
	}
	if a.json() {
		if err := a.printJSON(res); err != nil {
			return err
		}
	} else if err := a.printKill(res); err != nil {
		return err
	}
	return verdict(res)
}

// verdict is nil only if the result proves that nothing is left.
func verdict(res api.KillResult) error {
	switch {
	case len(res.Sessions) == 0 && !res.Noted:
		return hint(errors.New("no live session matches"), "list them with: curfew sessions list")
	case res.DryRun:
		return nil
	case res.Left > 0:
		return &hinted{err: fmt.Errorf("%s could not be ended", count(res.Left, "connection")), code: exitLeft,
			hint: "the sessions are over and pass no data; repeat the kill, or run: curfew kill --local --all"}
	case !res.Verified:
		return &hinted{err: errors.New("the kill could not be verified"), code: exitLeft,
			hint: "see `curfew doctor` for what this host can prove"}
	}
	return nodesVerdict(res.Nodes)
}

// nodesVerdict is nil only if every node has proved its part, or was not to be waited for.
func nodesVerdict(nodes []api.KilledNode) error {
	var silent, unproven []string
	for _, n := range nodes {
		switch {
		case n.State == api.KillSilent:
			silent = append(silent, n.Name)
		case n.State != api.KillSent && (n.State != api.KillAcknowledged || n.Left > 0 || !n.Verified):
			unproven = append(unproven, n.Name)
		}
	}
	switch {
	case len(silent) > 0:
		return &hinted{err: fmt.Errorf("no answer from %s", strings.Join(silent, ", ")), code: exitLeft,
			hint: "it ends the sessions as soon as it hears of it, and at their deadlines in any case; at once, on that node: curfew kill --local"}
	case len(unproven) > 0:
		return &hinted{err: fmt.Errorf("not proven on %s", strings.Join(unproven, ", ")), code: exitLeft,
			hint: "look there with: curfew connections"}
	}
	return nil
}

func (a *app) printKill(res api.KillResult) error {
	if res.Noted {
		fmt.Fprintln(a.out, "word is left for the agent: what matches and has no connection here ends when it wakes up")
	}
	if len(res.Sessions) == 0 {
		return nil // the verdict says so
	}
	if len(res.Connections) > 0 {
		t := newTable(a.out, "SESSION", "WHO", "SERVICE", "FROM", "TO", "OUTCOME")
		for _, c := range res.Connections {
			outcome := c.Outcome
			if c.Error != "" {
				outcome += ": " + c.Error
			}
			t.row(c.Session.Short(), c.Subject, c.Service, c.Source.String(), c.Upstream.Tuple.Remote.String(), outcome)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	sessions := count(len(res.Sessions), "session")
	if res.DryRun {
		fmt.Fprintf(a.out, "would end %s with %s\n", sessions, count(len(res.Connections), "connection"))
		return nil
	}
	fmt.Fprintf(a.out, "ended %s in %s: %s\n", sessions, precise(res.Took.Duration()), strings.Join(outcomes(res), ", "))
	fmt.Fprintf(a.out, "check: %s (by %s)\n", check(res), strings.Join(res.Layers, ", "))
	return a.printKilledNodes(res.Nodes)
}

func (a *app) printKilledNodes(nodes []api.KilledNode) error {
	if len(nodes) == 0 {
		return nil
	}
	t := newTable(a.out, "NODE", "STATE", "AFTER", "DESTROYED", "GONE", "LEFT", "TOOK", "CHECK")
	for _, n := range nodes {
		proof := ""
		switch {
		case n.Error != "":
			proof = n.Error
		case n.Verified:
			proof = "none left"
		}
		t.row(n.Name, n.State, orNone(n.Acknowledged), strconv.Itoa(n.Destroyed), strconv.Itoa(n.Gone), strconv.Itoa(n.Left), orNone(n.Took), proof)
	}
	return t.flush()
}

func outcomes(res api.KillResult) []string {
	list := []string{count(res.Destroyed, "connection") + " destroyed"}
	if res.Gone > 0 {
		list = append(list, fmt.Sprintf("%d gone already", res.Gone))
	}
	if res.Left > 0 {
		list = append(list, fmt.Sprintf("%d left", res.Left))
	}
	return list
}

func check(res api.KillResult) string {
	switch {
	case res.Left > 0:
		return count(res.Left, "connection") + " left"
	case res.Verified:
		return "the sockets were listed, none is left"
	}
	return "the sockets could not be listed"
}
