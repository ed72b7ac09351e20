// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/client"
)

// tokenFlags say that a machine signs in, and with what.
type tokenFlags struct {
	file, env, machine string
}

func (f *tokenFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.file, "token-file", "", "sign in with the token (JWT) in this file")
	flags.StringVar(&f.env, "token-env", "", "sign in with the token (JWT) in this environment variable")
	flags.StringVar(&f.machine, "machine", "", "the agent's name for the token's issuer, if it has several for it")
	cmd.MarkFlagsMutuallyExclusive("token-file", "token-env")
}

// set reports whether a machine signs in.
func (f *tokenFlags) set() bool { return f.file != "" || f.env != "" }

func (f *tokenFlags) check() error {
	if f.machine != "" && !f.set() {
		return usage("--machine needs --token-file or --token-env")
	}
	return nil
}

func (f *tokenFlags) login(agent *client.Agent) (*client.TokenLogin, error) {
	source := client.TokenEnv(f.env)
	if f.file != "" {
		source = client.TokenFile(f.file)
	}
	return client.NewTokenLogin(agent, source, f.machine)
}

// loginWithToken signs a machine in, and with watch keeps it signed in until it is interrupted.
func (a *app) loginWithToken(ctx context.Context, agent *client.Agent, f tokenFlags, watch bool) error {
	login, err := f.login(agent)
	if err != nil {
		return err
	}
	if watch {
		return login.Watch(ctx, a.reportRenewal(ctx))
	}
	sess, err := login.SignIn(ctx)
	if err != nil {
		return err
	}
	return a.printLogin(agent, sess)
}

// reportRenewal prints each session, in JSON one a line, and each error with its hint.
func (a *app) reportRenewal(ctx context.Context) func(api.Session, error) {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	return func(sess api.Session, err error) {
		switch {
		case ctx.Err() != nil: // it is over, and that is what was asked for
		case err != nil:
			a.report(err)
		case a.json():
			_ = enc.Encode(sess) // nobody reads it any more: the session counts
		default:
			fmt.Fprintf(a.out, "signed in as %s %s\n", clean(sess.Identity.Display()), until(sess))
		}
	}
}

// whileSignedIn does something while a machine stays signed in, if one is to; errors are printed.
func (a *app) whileSignedIn(ctx context.Context, agent *client.Agent, f tokenFlags, do func(context.Context) error) error {
	if !f.set() {
		return do(ctx)
	}
	login, err := f.login(agent)
	if err != nil {
		return err
	}
	// A command goes on when it is sent a signal, if it likes, and so does its session.
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	first, ended := make(chan struct{}), make(chan error, 1)
	signedIn := sync.OnceFunc(func() { close(first) })
	go func() {
		ended <- login.Watch(watching, func(_ api.Session, err error) {
			signedIn()
			if err != nil && watching.Err() == nil {
				a.report(err)
			}
		})
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-first:
	}
	err = do(ctx)
	stop()
	<-ended // nil: it was signed in
	return err
}

func until(sess api.Session) string {
	return fmt.Sprintf("until %s (%s)", sess.Deadline.Local().Format("Mon 15:04"), in(sess.Left.Duration()))
}
