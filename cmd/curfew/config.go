// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/policy"
)

func (a *app) newConfigCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "Check the agent's configuration",
		Long:    `Work with the agent's configuration. It is explained in docs/configuration.md.`,
		Example: `  curfew config check /etc/curfew/curfew.yaml`,
		Args:    noVerb,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	cmd.AddCommand(a.newConfigCheckCmd())
	return cmd
}

func (a *app) newConfigCheckCmd() *cobra.Command {
	var hooks config.Hooks
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Report everything that is wrong with a configuration",
		Long: `Report everything that is wrong with a configuration: each mistake with its line and
column, what is wrong and what would be right. Policies are compiled, and the files that
it names are opened. The exit code is 0 if an agent would start with it.`,
		Example: `  curfew config check /etc/curfew/curfew.yaml
  curfew config check --no-files curfew.yaml   # where the certificates are not`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.checkConfig(args[0], hooks) },
	}
	cmd.Flags().BoolVar(&hooks.SkipFiles, "no-files", false, "do not open certificates, keys and secrets")
	return cmd
}

// What configurations are checked with.
func compilePolicy(expr string) error { _, err := policy.Compile(expr); return err }
func compileClaims(expr string) error { _, err := policy.CompileClaims(expr); return err }
func checkKeys(jwks []byte) error     { _, err := jose.NewFixedKeySet(jwks); return err }

// configProblem is a config.Problem in JSON.
type configProblem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Key     string `json:"key,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (a *app) checkConfig(path string, hooks config.Hooks) error {
	hooks.Compile, hooks.CompileClaims, hooks.CheckKeys = compilePolicy, compileClaims, checkKeys
	c, err := config.Load(path, hooks)
	var problems config.Problems
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	if a.json() {
		list := make([]configProblem, len(problems))
		for i, p := range problems {
			list[i] = configProblem{p.File, p.Line, p.Column, p.Key, p.Message, p.Hint}
		}
		if err := a.printJSON(list); err != nil {
			return err
		}
	} else if err != nil {
		fmt.Fprintln(a.err, cleanLines(err.Error()))
	} else {
		fmt.Fprintf(a.out, "%s is right: %s, %s\n", path, count(len(c.Services), "service"), count(len(c.Providers), "provider"))
	}
	if err != nil {
		return fmt.Errorf("%s has %s", path, count(len(problems), "problem"))
	}
	return nil
}
