// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/control"
)

func (a *app) newSessionsCmd() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "List, show and create sessions",
		Long:  `A session is one sign-in of one identity. Without a verb, this lists the live ones.`,
		Example: `  curfew sessions
  curfew sessions show 4n6q2x
  curfew sessions create --subject backup --group ops --ttl 1h --out /etc/backup`,
		Args: noVerb,
		RunE: func(c *cobra.Command, _ []string) error { return a.listSessions(c, f) },
	}
	f.register(cmd)
	cmd.AddCommand(a.newSessionsListCmd(), a.newSessionsShowCmd(), a.newSessionsCreateCmd())
	return cmd
}

type listFlags struct {
	all     bool
	subject string
}

func (f *listFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.all, "all", false, "also sessions that have ended not long ago")
	cmd.Flags().StringVar(&f.subject, "subject", "", "only those of this subject")
}

func (a *app) newSessionsListCmd() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List sessions, newest first",
		Long: `List sessions, newest first. ENDS is when the session ends whatever happens, IDLE when it
ends if nothing happens.`,
		Example: `  curfew sessions list --all
  curfew sessions list --subject alice -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.listSessions(c, f) },
	}
	f.register(cmd)
	return cmd
}

func (a *app) listSessions(c *cobra.Command, f listFlags) error {
	list, err := a.client().Sessions(c.Context(), f.subject, f.all)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(list)
	}
	t := newTable(a.out, "ID", "WHO", "METHOD", "CREATED", "ENDS", "IDLE", "CONNECTIONS", "SENT", "RECEIVED", "STATE")
	for _, s := range list {
		ends, idle := in(s.Left.Duration()), "-"
		if s.IdleTimeout > 0 {
			idle = in(s.IdleLeft.Duration())
		}
		if s.State != api.StateLive {
			ends, idle = "-", "-"
		}
		t.row(s.ID.Short(), who(s), s.Method, ago(s.Created), ends, idle, strconv.Itoa(s.Connections),
			bytesText(s.BytesFromClient), bytesText(s.BytesFromUpstream), stateText(s))
	}
	return t.flush()
}

// who names the identity with its subject: names can be chosen, subjects cannot.
func who(s api.SessionInfo) string {
	if d := s.Identity.Display(); d != s.Identity.Subject {
		return fmt.Sprintf("%s (%s)", d, s.Identity.Subject)
	}
	return s.Identity.Subject
}

func stateText(s api.SessionInfo) string {
	if s.Ended != nil {
		return fmt.Sprintf("%s %s", s.Ended.Reason, ago(s.Ended.At))
	}
	return s.State
}

func (a *app) newSessionsShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show SESSION",
		Short: "Show one session and its connections",
		Long:  `Show one session and its live connections. SESSION is its ID or the beginning of it.`,
		Example: `  curfew sessions show 4n6q2x
  curfew sessions show 4n6q2x -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.client().Session(c.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(s)
			}
			conns, err := a.client().Connections(c.Context(), control.ConnectionFilter{Session: s.ID.String()})
			if err != nil {
				return err
			}
			a.printSession(s)
			if len(conns) == 0 {
				return nil
			}
			fmt.Fprintln(a.out)
			return a.printConnections(conns)
		},
	}
}

func (a *app) printSession(s api.SessionInfo) {
	i := s.Identity
	lines := [][2]string{
		{"session", s.ID.String()},
		{"subject", i.Subject},
		{"issuer", i.Issuer},
		{"name", i.Name},
		{"email", i.Email},
		{"groups", strings.Join(i.Groups, ", ")},
		{"method", s.Method},
		{"key", s.Key.String()},
		{"addresses", joinText(s.BindAddrs)},
		{"created", when(s.Created)},
		{"deadline", when(s.Deadline)},
		{"state", stateText(s)},
	}
	if s.State == api.StateLive {
		lines = append(lines, [2]string{"ends", in(s.Left.Duration())})
		if s.IdleTimeout > 0 {
			lines = append(lines, [2]string{"idle", fmt.Sprintf("ends %s without activity", in(s.IdleLeft.Duration()))})
		}
	}
	if e := s.Ended; e != nil {
		lines = append(lines, [2]string{"ended by", e.By}, [2]string{"message", e.Message})
	}
	lines = append(lines, [2]string{"sent", bytesText(s.BytesFromClient)}, [2]string{"received", bytesText(s.BytesFromUpstream)})
	for _, l := range lines {
		if l[1] != "" {
			fmt.Fprintf(a.out, "%-10s %s\n", l[0]+":", clean(l[1]))
		}
	}
}

// joinText lists things that have a text form.
func joinText[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = v.String()
	}
	return strings.Join(texts, ", ")
}

// when is an instant for people, in the local time zone.
func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }
