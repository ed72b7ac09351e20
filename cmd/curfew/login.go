// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/client"
)

// agentEnv names the agent for all users' commands.
const agentEnv = "CURFEW_AGENT"

// loginFlags is what login is told.
type loginFlags struct {
	provider, fingerprint        string
	service                      string
	noBrowser, acceptNew, forget bool
	bind, extend, watch, device  bool
	token                        tokenFlags
}

func (a *app) newLoginCmd() *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login [HOST[:PORT]]",
		Short: "Sign in at an agent: in a browser, or with a machine's token",
		Long: `Sign in at an agent, in your browser. A fresh key is made for the session; it stays on
this machine, in files that psql, redis-cli and others can use. Without HOST it is the
agent of the last time, or that in $` + agentEnv + `.

With --extend the session that you have is followed by a new one without a cut: you sign
in anew with its key, and its connections go on under the new session, with the new
time limit.

Some services ask for more: a second factor, or that you have just signed in. With
--service the provider is asked for that, and what your session carries goes on.

On a machine without a browser, --device shows an address and a code, which you enter in a
browser elsewhere. Enter only a code that you have just been shown by your own login: with
yours, a stranger is signed in under your name. Agents take it only if they are told to.

Machines sign in with a token that their platform gives them: a pod's, a CI job's. The
agent decides whose it takes. The session ends with the token; with --watch, curfew stays
and signs in again when the file changes, and the connections go on.

The first time, the agent's certificate must be one that this system trusts; or you
compare its fingerprint with what the operator has told you. Later a changed key is
refused.`,
		Example: `  curfew login db.example.com
  curfew login db.example.com --fingerprint sha256:4f1c...
  curfew login --extend
  curfew login --no-browser
  curfew login --service db
  curfew login --device
  curfew login db.example.com --token-file /var/run/secrets/curfew/token --watch
  curfew login db.example.com --token-env CURFEW_TOKEN -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.login(c.Context(), cmp.Or(strings.Join(args, ""), os.Getenv(agentEnv)), f)
		},
	}
	f.add(cmd)
	return cmd
}

func (f *loginFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.provider, "provider", "", "the identity provider, if the agent has several")
	flags.StringVar(&f.fingerprint, "fingerprint", "", "what the agent's fingerprint must be")
	flags.BoolVar(&f.acceptNew, "accept-new", false, "do not ask about an agent that is seen for the first time")
	flags.BoolVar(&f.forget, "forget", false, "forget the agent's old key: the operator has confirmed a new one")
	flags.BoolVar(&f.noBrowser, "no-browser", false, "print the page's address instead of opening it")
	flags.StringVar(&f.service, "service", "", "sign in as this service requires it")
	flags.BoolVar(&f.device, "device", false, "sign in by a code that you enter in a browser on another device")
	flags.BoolVar(&f.extend, "extend", false, "extend the session at hand: its connections go on")
	flags.BoolVar(&f.bind, "bind-address", false, "also admit this host's address to the agent's plain listeners")
	flags.BoolVar(&f.watch, "watch", false, "stay, and sign in again when the token's file changes, until interrupted")
	f.token.add(cmd)
	for _, token := range []string{"token-file", "token-env"} {
		for _, person := range []string{"provider", "no-browser", "device", "service", "extend", "bind-address"} {
			cmd.MarkFlagsMutuallyExclusive(token, person)
		}
	}
	cmd.MarkFlagsMutuallyExclusive("device", "no-browser")
	cmd.MarkFlagsMutuallyExclusive("device", "service")
}

func (f *loginFlags) check() error {
	if f.watch && f.token.file == "" {
		return usage("--watch needs --token-file: nothing else can be renewed without you")
	}
	return f.token.check()
}

func (a *app) login(ctx context.Context, host string, f loginFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	cfg, err := clientConfig(host)
	if err != nil {
		return err
	}
	cfg.Forget, cfg.Confirm = f.forget, a.confirm(cfg.Agent, f.acceptNew)
	if f.fingerprint != "" {
		fp, err := client.ParseFingerprint(f.fingerprint)
		if err != nil {
			return usage("--%w", err)
		}
		cfg.Fingerprint = &fp
	}
	agent, err := client.Connect(ctx, cfg)
	if err != nil {
		return err
	}
	if f.token.set() {
		return a.loginWithToken(ctx, agent, f.token, f.watch)
	}
	s, err := a.loginInBrowser(ctx, agent, f)
	if err != nil {
		return coded(err)
	}
	return a.printLogin(agent, s)
}

// loginInBrowser signs a person in, in the browser of this machine or of another.
func (a *app) loginInBrowser(ctx context.Context, agent *client.Agent, f loginFlags) (api.Session, error) {
	how := client.LoginConfig{Agent: agent, Provider: f.provider, Progress: a.err, BindAddress: f.bind, Extend: f.extend}
	if !f.noBrowser {
		how.OpenBrowser = client.OpenBrowser
	}
	switch {
	case f.device:
		return client.LoginDevice(ctx, how)
	case f.service != "":
		return client.LoginForService(ctx, how, f.service)
	}
	return client.Login(ctx, how)
}

func (a *app) printLogin(agent *client.Agent, s api.Session) error {
	if a.json() {
		return a.printJSON(s)
	}
	fmt.Fprintf(a.out, "signed in as %s %s\n", clean(s.Identity.Display()), until(s))
	fmt.Fprintf(a.out, "your key: %s\n", agent.Store.Path(client.KeyFile))
	return nil
}

// clientConfig says which agent a user's command is about: the one named, or else the last.
func clientConfig(host string) (client.Config, error) {
	home, err := client.Home()
	if err != nil {
		return client.Config{}, err
	}
	cfg := client.Config{Home: home}
	if host == "" {
		cfg.Agent, err = client.CurrentAgent(home)
		return cfg, err
	}
	if cfg.Agent, err = client.ParseAddress(host); err != nil {
		return cfg, usage("%w", err)
	}
	return cfg, nil
}

// confirm asks the user about the fingerprint of an agent that is seen for the first time.
func (a *app) confirm(agent client.Address, acceptNew bool) func(client.Fingerprint) (bool, error) {
	if acceptNew {
		return func(fp client.Fingerprint) (bool, error) {
			fmt.Fprintf(a.err, "%s is known by its fingerprint from now on: %s\n", agent, fp)
			return true, nil
		}
	}
	if info, err := os.Stdin.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil // nobody to ask
	}
	return func(fp client.Fingerprint) (bool, error) {
		fmt.Fprintf(a.err, "%s is seen for the first time, and no authority vouches for it.\nIts fingerprint is %s\nIs that what the operator told you? [yes/no] ", agent, fp)
		line, err := bufio.NewReader(os.Stdin).ReadString('\n')
		return err == nil && strings.TrimSpace(line) == "yes", nil
	}
}

// coded gives errors of the client that stand for an exit code of their own that code.
func coded(err error) error {
	if e, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		return &hinted{err: err, code: e.ExitCode()}
	}
	return err
}

// theirAgent returns the agent that a user is signed in to.
func theirAgent(ctx context.Context, host string) (*client.Agent, error) {
	cfg, err := clientConfig(cmp.Or(host, os.Getenv(agentEnv)))
	if err != nil {
		return nil, err
	}
	if !client.OpenStore(cfg.Home, cfg.Agent).Known() {
		return nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("%s is not known here yet", cfg.Agent),
			Hint: "run `curfew login " + cfg.Agent.String() + "`"}
	}
	return client.Connect(ctx, cfg)
}
