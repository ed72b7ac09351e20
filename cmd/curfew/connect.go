// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/client"
)

// connectFlags is what connect is told.
type connectFlags struct {
	agent, listen string
	stdio         bool
	token         tokenFlags
}

func (a *app) newConnectCmd() *cobra.Command {
	var f connectFlags
	cmd := &cobra.Command{
		Use:   "connect SERVICE [-- COMMAND...]",
		Short: "Carry connections to a service",
		Long: `Carry connections to a service: from a local port, from standard input and output (for
ssh's ProxyCommand), or for one command, which finds the port in its arguments as
{host} and {port}, and in $CURFEW_HOST and $CURFEW_PORT.

All users of this machine can use the local port while it is open. When your session
ends, so do the connections: the exit code is 4 then, and the reason is printed. The
exit code of a command is passed on.

With --token-file, a machine signs in first, and again when the token is renewed.`,
		Example: `  curfew connect db --listen 127.0.0.1:15432
  curfew connect db -- psql "host={host} port={port} user=alice"
  curfew connect db --token-file /var/run/secrets/curfew/token --listen 127.0.0.1:15432
  ssh -o ProxyCommand="curfew connect --stdio bastion" bastion`,
		Args: func(c *cobra.Command, args []string) error {
			if n := c.ArgsLenAtDash(); n >= 0 {
				args = args[:n]
			}
			return cobra.ExactArgs(1)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error { return a.connect(c.Context(), f, args[0], args[1:]) },
	}
	cmd.Flags().StringVar(&f.listen, "listen", "", "where to listen; default: a free port on 127.0.0.1")
	cmd.Flags().BoolVar(&f.stdio, "stdio", false, "carry one connection over standard input and output")
	agentFlag(cmd, &f.agent)
	f.token.add(cmd)
	cmd.MarkFlagsMutuallyExclusive("listen", "stdio")
	return cmd
}

func (a *app) connect(ctx context.Context, f connectFlags, service string, command []string) error {
	if len(command) > 0 && (f.stdio || f.listen != "") {
		return usage("a command needs neither --stdio nor --listen")
	}
	if err := f.token.check(); err != nil {
		return err
	}
	agent, err := theirAgent(ctx, f.agent)
	if err != nil {
		return err
	}
	return a.whileSignedIn(ctx, agent, f.token, func(ctx context.Context) error { return a.carry(ctx, agent, f, service, command) })
}

func (a *app) carry(ctx context.Context, agent *client.Agent, f connectFlags, service string, command []string) error {
	tunnel, err := client.OpenTunnel(ctx, agent, service, a.err)
	if err != nil {
		return coded(err)
	}
	switch {
	case f.stdio:
		return coded(tunnel.Stdio(ctx, os.Stdin, a.out))
	case len(command) > 0:
		// Signals go to the command, and we end when it does.
		return coded(tunnel.Run(context.WithoutCancel(ctx), client.Command{Args: command, Stdin: os.Stdin, Out: a.out, Err: a.err}))
	}
	return a.serveTunnel(ctx, tunnel, service, f.listen)
}

func (a *app) serveTunnel(ctx context.Context, tunnel *client.Tunnel, service, listen string) error {
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return hint(err, "choose another address with --listen, such as 127.0.0.1:0")
	}
	if a.json() {
		err = a.printJSON(map[string]string{"service": service, "listen": l.Addr().String()})
	} else {
		_, err = fmt.Fprintf(a.out, "%s is at %s; Ctrl-C ends it\n", service, l.Addr())
	}
	if err != nil {
		_ = l.Close() // nobody would know where it is
		return err
	}
	return coded(tunnel.Serve(ctx, l))
}
