// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/curfew-proxy/curfew/agent/api"
)

// LoginForService signs in as a service requires: with an acr or amr, or not too long ago. The session at hand is followed
// by the new one, and its connections go on; without one there is a plain sign-in first, for the agent to see who asks. It
// returns the session at hand if that has everything already.
func LoginForService(ctx context.Context, cfg LoginConfig, service string) (api.Session, error) {
	sess, err := Status(ctx, cfg.Agent)
	if e, ok := errors.AsType[*api.Error](err); ok && e.Code == api.CodeUnreachable {
		return api.Session{}, err
	}
	if err != nil || sess.Ended != nil {
		if sess, err = Login(ctx, cfg); err != nil {
			return api.Session{}, err
		}
	}
	signedIn, err := cfg.Agent.SignedIn()
	if err != nil {
		return api.Session{}, err
	}
	svc, err := signedIn.service(ctx, service)
	if err != nil || svc.Missing == "" {
		return sess, err
	}
	fmt.Fprintf(cfg.Progress, "%s asks for another sign-in: %s.\n", clean(service), clean(svc.Missing))
	cfg.Extend, cfg.service = true, service
	return Login(ctx, cfg)
}

// service finds a service among those that the session may use, or could with another sign-in. a has the client key.
func (a *Agent) service(ctx context.Context, name string) (api.Service, error) {
	services, err := a.Services(ctx)
	if err != nil {
		return api.Service{}, err
	}
	i := slices.IndexFunc(services, func(s api.Service) bool { return s.Name == name })
	if i < 0 {
		return api.Service{}, unknownService(name, services)
	}
	return services[i], nil
}

// stepUp returns the error for a service that asks for another sign-in, or nil if it does not.
func stepUp(svc api.Service) error {
	if svc.Missing == "" {
		return nil
	}
	return &api.Error{Code: api.CodeStepUp, Message: fmt.Sprintf("%s asks for another sign-in: %s", svc.Name, svc.Missing),
		Hint: "run `curfew login --service " + svc.Name + "`"}
}
