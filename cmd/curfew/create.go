// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/client"
)

// createFlags is what sessions create is told.
type createFlags struct {
	subject, name, out string
	groups             []string
	ttl, idle          time.Duration
	bind               []string
}

func (a *app) newSessionsCreateCmd() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create a session without a sign-in",
		Long: `Create a session without a sign-in: for machines, and for when the provider is down. A
fresh key is made here and never leaves this host; the agent learns its hash alone.
The directory then has cert.pem, key.pem and ca.pem, as psql, redis-cli and others
take them. Who creates sessions is in the audit log.`,
		Example: `  curfew sessions create --subject backup --group ops --ttl 1h --out /etc/backup
  psql "host=db.example.com sslmode=verify-full sslcert=/etc/backup/cert.pem \
        sslkey=/etc/backup/key.pem sslrootcert=/etc/backup/ca.pem"`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.createSession(c.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.subject, "subject", "", "who the session is for")
	flags.StringVar(&f.name, "name", "", "a name to show for it")
	flags.StringArrayVar(&f.groups, "group", nil, "a group that it belongs to; may be repeated")
	flags.DurationVar(&f.ttl, "ttl", time.Hour, "time until it ends")
	flags.DurationVar(&f.idle, "idle", 0, "end it after that long without activity; 0: never")
	flags.StringArrayVar(&f.bind, "bind-address", nil, "admit connections from this address to plain listeners; may be repeated")
	flags.StringVar(&f.out, "out", "", "the directory to write to; it is made if need be")
	_ = cmd.MarkFlagRequired("subject") // fails for unknown flags only
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

func (a *app) createSession(ctx context.Context, f createFlags) error {
	if f.ttl <= 0 || f.idle < 0 {
		return usage("--ttl must be above zero, and --idle not below")
	}
	bind, err := parseAddrs(f.bind)
	if err != nil {
		return err
	}
	key, err := newClientKey()
	if err != nil {
		return err
	}
	// The key is written first: a session whose key is lost would be of no use to anyone.
	files, err := writeKey(f.out, key)
	if err != nil {
		return err
	}
	res, err := a.client().CreateSession(ctx, api.CreateSessionRequest{
		Subject: f.subject, Name: f.name, Groups: f.groups, Key: key.id,
		TTL: api.Seconds(f.ttl), Idle: api.Seconds(f.idle), BindAddrs: bind,
	})
	if err != nil {
		return errors.Join(err, files.remove())
	}
	if err := files.write(client.CAFile, []byte(res.CA), 0o644); err != nil {
		return hint(err, "the session exists: end it with: curfew kill %s", res.Session.ID.Short())
	}
	if a.json() {
		return a.printJSON(res.Session)
	}
	fmt.Fprintf(a.out, "session %s of %s ends %s\n", res.Session.ID.Short(), clean(f.subject), in(res.Session.Left.Duration()))
	fmt.Fprintf(a.out, "gateway %s\n", clean(res.Gateway))
	for _, path := range files.paths {
		fmt.Fprintf(a.out, "wrote %s\n", path)
	}
	return nil
}

func parseAddrs(list []string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, text := range list {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, usage("--bind-address %q: want an IP address", text)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}
