// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/api"
)

func (a *app) newStreamsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "streams",
		Short: "Set up what transmitters of security events send",
		Long: `Set up what transmitters of security events send to this agent (OpenID Shared Signals).
NAME is the transmitter's name in the configuration.`,
		Example: `  curfew streams create corp
  curfew streams verify corp f67e39a0a4d34d56b3aa1bc4cff0069f`,
		Args: noVerb,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	cmd.AddCommand(
		a.streamsCmd(api.StreamsList, "list NAME", "List the streams that a transmitter has for this agent", `  curfew streams list corp`),
		a.streamsCmd(api.StreamsCreate, "create NAME", "Have a transmitter send its events here", `  curfew streams create corp
  curfew streams create corp --poll    # where it cannot reach this agent`),
		a.streamsCmd(api.StreamsUpdate, "update NAME STREAM", "Have a stream be as create would make it now", `  curfew streams update corp f67e39a0a4d3    # after its token was changed`),
		a.streamsCmd(api.StreamsAdd, "add NAME STREAM SUBJECT", "Have a transmitter send what happens to somebody", `  curfew streams add corp f67e39a0a4d3 alice@example.com
  curfew streams add corp f67e39a0a4d3 '{"format":"iss_sub","iss":"https://idp.example.com","sub":"00u1a2b3"}'`),
		a.streamsCmd(api.StreamsRemove, "remove NAME STREAM SUBJECT", "Have a transmitter send nothing more about somebody", `  curfew streams remove corp f67e39a0a4d3 alice@example.com`),
		a.streamsCmd(api.StreamsVerify, "verify NAME STREAM", "Have a transmitter send an event, and wait until it has come", `  curfew streams verify corp f67e39a0a4d3`),
		a.streamsCmd(api.StreamsEnable, "enable NAME STREAM", "Let the events of a stream come", `  curfew streams enable corp f67e39a0a4d3`),
		a.streamsCmd(api.StreamsPause, "pause NAME STREAM", "Have the events of a stream held back", `  curfew streams pause corp f67e39a0a4d3 --reason maintenance`),
		a.streamsCmd(api.StreamsDisable, "disable NAME STREAM", "Have the events of a stream dropped", `  curfew streams disable corp f67e39a0a4d3`),
		a.streamsCmd(api.StreamsDelete, "delete NAME STREAM", "End a stream", `  curfew streams delete corp f67e39a0a4d3`),
	)
	return cmd
}

func (a *app) streamsCmd(do, use, short, example string) *cobra.Command {
	req := api.StreamsRequest{Do: do}
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Args: cobra.ExactArgs(len(strings.Fields(use)) - 1),
		Long: short + ".\nThe agent asks the transmitter, with the credentials in its configuration.",
		RunE: func(c *cobra.Command, args []string) error {
			if req.Transmitter = args[0]; len(args) > 1 {
				req.Stream = args[1]
			}
			if len(args) > 2 {
				if req.Subject = subjectOf(args[2]); !json.Valid(req.Subject) {
					return usage("the subject is not JSON, though it begins with {")
				}
			}
			list, err := a.client().Streams(c.Context(), req)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(list)
			}
			return a.printStreams(req, list)
		},
	}
	switch do {
	case api.StreamsCreate, api.StreamsUpdate:
		cmd.Flags().BoolVar(&req.Poll, "poll", false, "fetch the events instead of having them pushed")
		cmd.Flags().StringVar(&req.Description, "description", "", "what the transmitter shows of the stream")
	case api.StreamsEnable, api.StreamsPause, api.StreamsDisable:
		cmd.Flags().StringVar(&req.Reason, "reason", "", "why; the transmitter is told")
	}
	return cmd
}

// subjectOf is the subject identifier (RFC 9493) that is meant by an address, or that is written out.
func subjectOf(text string) json.RawMessage {
	if strings.HasPrefix(text, "{") {
		return json.RawMessage(text)
	}
	b, _ := json.Marshal(map[string]string{"format": "email", "email": text}) // strings: cannot fail
	return b
}

func (a *app) printStreams(req api.StreamsRequest, list []api.StreamInfo) error {
	switch {
	case req.Do == api.StreamsDelete:
		fmt.Fprintln(a.out, "the stream is deleted")
	case req.Do == api.StreamsVerify:
		fmt.Fprintln(a.out, "the verification event has come")
	case len(list) == 0:
		fmt.Fprintln(a.out, "no streams")
	}
	for _, s := range list {
		fmt.Fprintf(a.out, "%s  %s to %s  %s\n", clean(s.ID), s.Delivery, clean(s.Endpoint), clean(s.Status))
		for _, e := range s.Events {
			fmt.Fprintf(a.out, "    %s\n", clean(e))
		}
		if s.Hint != "" {
			fmt.Fprintln(a.out, "hint:", clean(s.Hint))
		}
	}
	return nil
}
