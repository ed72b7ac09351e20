// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent"
)

// defaultConfig is where the agent's configuration is unless --config says otherwise.
const defaultConfig = "/etc/curfew/curfew.yaml"

// proxyVerb starts the unprivileged process; the agent runs it, people do not.
const proxyVerb = "agent-proxy"

// platformCmds are the verbs that only Linux has.
func (a *app) platformCmds() []*cobra.Command {
	return []*cobra.Command{a.newAgentCmd(), a.newProxyCmd(), a.newDemoCmd(), a.newDoctorCmd()}
}

func (a *app) newAgentCmd() *cobra.Command {
	var config, level, format, join, joinFile string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent: enforce, and serve what the configuration says",
		Long: `Run the agent in the foreground. It starts as root and becomes two processes: a
privileged one that enforces and talks to nobody, and an unprivileged one, in a
cgroup of its own, that talks to the network.

SIGTERM lets connections end by themselves for the configured drain timeout, then
ends them; a second one does so at once. SIGHUP takes a changed configuration into
service, if nothing is wrong with it.

With --join it becomes a node of the cluster that the token is for; once it is one, the
token is not looked at any more.`,
		Example: `  curfew config check /etc/curfew/curfew.yaml && curfew agent
  curfew agent --config ./curfew.yaml --log-format text --log-level debug
  curfew agent --join-file /run/secrets/curfew-token`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := newLogger(level, format)
			if err != nil {
				return err
			}
			token, err := joinToken(join, joinFile)
			if err != nil {
				return err
			}
			// Signals are the agent's own affair: the first one drains.
			return agent.Run(context.WithoutCancel(c.Context()), agent.Options{
				ConfigPath: config, Join: token, Log: log.With("process", "enforcer"),
				ProxyArgs: []string{proxyVerb, "--log-level", level, "--log-format", format},
			})
		},
	}
	cmd.Flags().StringVar(&config, "config", defaultConfig, "the configuration file")
	cmd.Flags().StringVar(&join, "join", os.Getenv("CURFEW_JOIN"), "join the cluster that this token is for (or set CURFEW_JOIN)")
	cmd.Flags().Lookup("join").DefValue = "" // the token is a secret
	cmd.Flags().StringVar(&joinFile, "join-file", "", "the same, with the token in a file, where the list of processes does not show it")
	cmd.MarkFlagsMutuallyExclusive("join", "join-file")
	logFlags(cmd, &level, &format)
	return cmd
}

// joinToken returns the token to join with, if there is one.
func joinToken(token, file string) (string, error) {
	if file == "" {
		return token, nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", hint(fmt.Errorf("--join-file: %w", err), "write the output of `curfew cluster token` there")
	}
	return strings.TrimSpace(string(content)), nil
}

func (a *app) newProxyCmd() *cobra.Command {
	var level, format string
	cmd := &cobra.Command{
		Use:     proxyVerb,
		Short:   "The agent's unprivileged process; the agent starts it",
		Long:    "The agent's unprivileged process. It works only when the agent has started it.",
		Example: `  curfew agent    # starts curfew agent-proxy`,
		Hidden:  true,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := newLogger(level, format)
			if err != nil {
				return err
			}
			// Signals are for the privileged process, which tells this one to drain. A service manager
			// sends them to both.
			return agent.RunProxy(context.WithoutCancel(c.Context()), buildVersion().Version, log.With("process", "proxy"))
		},
	}
	logFlags(cmd, &level, &format)
	return cmd
}

func logFlags(cmd *cobra.Command, level, format *string) {
	cmd.Flags().StringVar(level, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().StringVar(format, "log-format", "json", "json or text")
}

// newLogger logs to standard error, where service managers collect it.
func newLogger(level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usage("--log-level %q: want debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	}
	return nil, usage("%s", fmt.Sprintf("--log-format %q: want json or text", format))
}
