// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) newServicesCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "services",
		Short: "List the services that the agent guards",
		Long: `List the services that the agent guards: where they listen, where they lead and who may
use them. A service without an address of its own is reached on the gateway, by its
name as the TLS server name.`,
		Example: `  curfew services
  curfew services -o json | jq '.[].name'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.client().Services(c.Context())
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(list)
			}
			t := newTable(a.out, "NAME", "PROTOCOL", "LISTEN", "UPSTREAM", "CONNECTIONS", "ALLOW")
			for _, s := range list {
				listen := joinText(s.Listen)
				if len(s.Listen) == 0 {
					listen = "gateway"
				}
				if len(s.PlainListen) > 0 {
					listen += ", plain " + joinText(s.PlainListen)
				}
				t.row(s.Name, s.Protocol, listen, s.Upstream, strconv.Itoa(s.Connections), strings.Join(strings.Fields(s.Allow), " "))
			}
			return t.flush()
		},
	}
}
