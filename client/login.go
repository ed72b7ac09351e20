// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/curfew-proxy/curfew/agent/api"
)

// LoginConfig says how to sign in.
type LoginConfig struct {
	Agent    *Agent
	Provider string // may be empty if the agent has only one
	// OpenBrowser shows a page to the user. Nil leaves that to the user.
	OpenBrowser func(url string) error
	Progress    io.Writer // for the user to read
	// BindAddress asks the agent to admit this host's address to its plain listeners.
	BindAddress bool
	// Extend signs in with the key of the session at hand instead of a fresh one: the new session takes its
	// place, and its connections go on.
	Extend bool

	service string // see LoginForService
}

// Login signs in through the user's browser: it makes a fresh key (but see LoginConfig.Extend), has the agent start a sign-in
// for it, and waits until the browser brings a one-time code back to a listener on loopback. The
// new key takes the place of the old in the agent's store only once the session exists; until
// then nothing is written. It returns when the agent's time for the sign-in is up, or ctx is
// done, at the latest.
func Login(ctx context.Context, cfg LoginConfig) (api.Session, error) {
	key, err := cfg.key()
	if err != nil {
		return api.Session{}, err
	}
	agent := cfg.Agent.withCert(key.Certificate())
	lb, err := listenLoopback()
	if err != nil {
		return api.Session{}, err
	}
	defer lb.close()
	var started api.LoginStarted
	req := api.LoginRequest{Provider: cfg.Provider, Redirect: lb.url(), State: lb.state, BindAddress: cfg.BindAddress, Service: cfg.service}
	if err := agent.do(ctx, http.MethodPost, api.PathLogin, req, &started); err != nil {
		return api.Session{}, err
	}
	cfg.show(started)
	waiting, cancel := context.WithTimeout(ctx, started.ExpiresIn.Duration())
	defer cancel()
	var sess api.Session
	err = lb.wait(waiting, func(code string) error {
		if err := agent.do(ctx, http.MethodPost, api.PathLoginComplete, api.LoginComplete{Code: code}, &sess); err != nil {
			return err
		}
		return agent.Store.SaveLogin(key, sess)
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = &api.Error{Code: api.CodeLoginInvalid, Message: "nobody signed in in time", Hint: "run `curfew login` again"}
	}
	return sess, err
}

// key is the key that the session will be bound to.
func (cfg *LoginConfig) key() (*Key, error) {
	if !cfg.Extend {
		return NewKey()
	}
	cert, err := cfg.Agent.Store.LoadKey()
	if err != nil {
		return nil, err
	}
	return keyOf(cert)
}

// show gets the page in front of the user.
func (cfg *LoginConfig) show(started api.LoginStarted) {
	if cfg.OpenBrowser != nil {
		if err := cfg.OpenBrowser(started.URL); err == nil {
			fmt.Fprintf(cfg.Progress, "Your browser opens to sign in at %s. If it does not, open this yourself, on this machine:\n\n    %s\n\n", started.Provider, started.URL)
			return
		}
	}
	fmt.Fprintf(cfg.Progress, "Open this in a browser on this machine to sign in at %s:\n\n    %s\n\n", started.Provider, started.URL)
}

func newState() string { return rand.Text() }
