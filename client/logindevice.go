// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
)

// Bounds on how often the agent is asked whether the code was entered, whatever it says itself.
const (
	minPoll = 100 * time.Millisecond
	maxPoll = time.Minute
)

// LoginDevice signs in by a code that the user enters in a browser on any device (RFC 8628). It is like Login otherwise;
// OpenBrowser is not used.
//
// Whoever gets somebody else to enter the code has that person's session: the user is told to enter only their own.
func LoginDevice(ctx context.Context, cfg LoginConfig) (api.Session, error) {
	key, err := cfg.key()
	if err != nil {
		return api.Session{}, err
	}
	agent := cfg.Agent.withCert(key.Certificate())
	var started api.DeviceStarted
	req := api.DeviceRequest{Provider: cfg.Provider, BindAddress: cfg.BindAddress}
	if err := agent.do(ctx, http.MethodPost, api.PathLoginDevice, req, &started); err != nil {
		return api.Session{}, err
	}
	cfg.showCode(started)
	waiting, cancel := context.WithTimeout(ctx, started.ExpiresIn.Duration())
	defer cancel()
	sess, err := cfg.pollDevice(waiting, agent, started)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = &api.Error{Code: api.CodeLoginInvalid, Message: "nobody entered the code in time", Hint: "run `curfew login --device` again"}
	}
	if err != nil {
		return api.Session{}, err
	}
	return sess, agent.Store.SaveLogin(key, sess)
}

// showCode gets the code in front of the user.
func (cfg *LoginConfig) showCode(s api.DeviceStarted) {
	fmt.Fprintf(cfg.Progress, "To sign in at %s, open this in a browser, on any device:\n\n    %s\n\nand enter the code\n\n    %s\n\n",
		clean(s.Provider), clean(s.VerificationURI), clean(s.UserCode))
	if s.VerificationURIComplete != "" {
		fmt.Fprintf(cfg.Progress, "or open this, and compare the code:\n\n    %s\n\n", clean(s.VerificationURIComplete))
	}
	fmt.Fprintf(cfg.Progress, "Enter this code only if you yourself have just run curfew login: whoever runs it is signed in\nunder your name. It is good for %s; Ctrl-C ends the waiting.\n",
		s.ExpiresIn.Duration().Round(time.Second))
}

// pollDevice asks the agent, in its rhythm, until it has a session, says no, or ctx is done. An agent that does not answer is
// asked again.
func (cfg *LoginConfig) pollDevice(ctx context.Context, agent *Agent, started api.DeviceStarted) (api.Session, error) {
	wait, problem := started.Interval.Duration(), ""
	for {
		timer := time.NewTimer(min(max(wait, minPoll), maxPoll))
		select {
		case <-ctx.Done():
			timer.Stop()
			return api.Session{}, ctx.Err()
		case <-timer.C:
		}
		var answer struct { // one or the other
			api.Session
			api.DevicePending
		}
		err := agent.do(ctx, http.MethodPost, api.PathDevicePoll, api.DevicePoll{Login: started.Login}, &answer)
		var e *api.Error
		switch {
		case errors.As(err, &e) && e.Code == api.CodeUnreachable:
			answer.Problem, wait = e.Message, min(2*wait, maxPoll)
		case err != nil:
			return api.Session{}, err
		case answer.State != "":
			return answer.Session, nil
		default:
			wait = answer.Interval.Duration()
		}
		if answer.Problem != problem {
			if problem = answer.Problem; problem != "" {
				fmt.Fprintf(cfg.Progress, "Still waiting: %s.\n", clean(problem))
			}
		}
	}
}
