// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/policy"
	"github.com/curfew-proxy/curfew/agent/session"
)

// actor implements control.Actor: what an operator can change.
type actor struct {
	view       *view
	table      *session.Table
	terminator *terminator
	clock      session.Clock
	observe    *observer
	heed       func() error // what kill --local ended is older than what is created from now on
	bind       func() config.BindAddress
	gateway    func() string // host:port that clients use
	ca         func() []byte // PEM
	cluster    *clusterNode  // nil: this node is in none
}

// CreateSession implements control.Actor.
func (a *actor) CreateSession(_ context.Context, req api.CreateSessionRequest, by string) (api.CreateSessionResult, error) {
	if err := errors.Join(a.heed(), a.cluster.ready()); err != nil {
		return api.CreateSessionResult{}, err
	}
	for i, addr := range req.BindAddrs {
		req.BindAddrs[i] = addr.Unmap() // as connections are looked up by it
	}
	if err := checkBindAddrs(req.BindAddrs, a.bind()); err != nil {
		return api.CreateSessionResult{}, err
	}
	s, err := a.table.Create(session.Session{
		Key: req.Key, Method: session.MethodControl, IdleTimeout: req.Idle.Duration(), BindAddrs: req.BindAddrs,
		Identity: session.Identity{Issuer: session.MethodControl, Subject: req.Subject, Name: req.Name, Groups: req.Groups, AuthTime: a.clock.Wall()},
	}, req.TTL.Duration())
	if err != nil {
		return api.CreateSessionResult{}, err
	}
	a.observe.created(s, by)
	return api.CreateSessionResult{Session: a.view.session(s, nil), CA: string(a.ca()), Gateway: a.gateway()}, nil
}

// Kill implements control.Actor. Every gate of this node is shut before anything is waited for; other nodes are
// told at the same time.
func (a *actor) Kill(ctx context.Context, req api.KillRequest, by string) (api.KillResult, error) {
	began := a.clock.Boot()
	ids, err := a.resolve(req)
	if err != nil {
		return api.KillResult{}, err
	}
	result := api.KillResult{DryRun: req.DryRun}
	if req.DryRun {
		elsewhere, _ := a.cluster.resolveElsewhere(ctx, req)
		a.preview(union(ids, elsewhere), &result)
		return result, nil
	}
	end := session.End{Reason: session.ReasonKilled, By: by, Message: req.Reason, At: a.clock.Wall()}
	endings, err := a.table.EndAll(ids, end)
	storeErrs := []error{err}
	more, err := a.cluster.raise(req, end)
	endings, storeErrs = append(endings, more...), append(storeErrs, err)
	elsewhere, silent := a.cluster.resolveElsewhere(ctx, req)
	more, err = a.table.EndAll(elsewhere, end)
	endings, storeErrs = append(endings, more...), append(storeErrs, err)
	err = a.collect(ctx, endings, &result)
	result.Took = api.Seconds(a.clock.Boot().Sub(began))
	if storeErr := errors.Join(storeErrs...); storeErr != nil {
		err = errors.Join(err, fmt.Errorf("the sessions have ended, but a restart might not know: %w", storeErr))
	}
	if err == nil {
		result.Nodes = a.cluster.account(ctx, req, result, began, silent)
	}
	a.observe.killed(req, result, by, err)
	if err != nil {
		return result, &api.Error{Code: api.CodeInternal, Message: err.Error(), Hint: "look for what is left with: curfew connections; the sweep goes on trying every second"}
	}
	return result, nil
}

// resolve returns the sessions that a request is about, as far as this node knows.
func (a *actor) resolve(req api.KillRequest) ([]session.ID, error) {
	sel, whereErr, err := a.selector(req)
	if err != nil {
		return nil, err
	}
	entries := a.table.Select(sel, false)
	if err := whereErr(); err != nil {
		return nil, err
	}
	ids := make([]session.ID, len(entries))
	for i, e := range entries {
		ids[i] = e.Session.ID
	}
	return ids, nil
}

func union(a, b []session.ID) []session.ID {
	seen := make(map[session.ID]bool, len(a))
	for _, id := range a {
		seen[id] = true
	}
	for _, id := range b {
		if !seen[id] {
			seen[id] = true
			a = append(a, id)
		}
	}
	return a
}

// selector translates a request. Where a condition could not be told for some session, whereErr says so
// after Select: nobody is killed then, and nobody taken to be spared.
func (a *actor) selector(req api.KillRequest) (sel session.Selector, whereErr func() error, err error) {
	sel = session.Selector{All: req.All, ID: req.Session, Subject: req.Subject, Group: req.Group, Service: req.Service}
	var failed []error
	whereErr = func() error {
		if len(failed) == 0 {
			return nil
		}
		return &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf("where: cannot be told for %d sessions, nobody was killed: %v", len(failed), failed[0]),
			Hint: "guard fields that may be missing, as in: has(identity.email) && identity.email == \"...\""}
	}
	if req.Where == "" {
		return sel, whereErr, nil
	}
	compiled, err := policy.CompileSelector(req.Where)
	if err != nil {
		return sel, nil, &api.Error{Code: api.CodeBadRequest, Message: "where: " + err.Error(), Hint: "see docs/policy.md for what an expression can say"}
	}
	now := a.clock.Wall()
	sel.Where = func(s session.Session, conns []*session.Connection) bool {
		ok, err := compiled.Match(&s, conns, now)
		if err != nil {
			failed = append(failed, fmt.Errorf("session %s: %w", s.ID.Short(), err))
		}
		return ok
	}
	return sel, whereErr, nil
}

// preview lists what a kill would end: the sessions everywhere, the connections of this node.
func (a *actor) preview(ids []session.ID, result *api.KillResult) {
	for _, id := range ids {
		v, conns, err := a.table.Get(id.String())
		if err != nil {
			continue // known elsewhere only, or over by now
		}
		result.Sessions = append(result.Sessions, id)
		for _, c := range conns {
			result.Connections = append(result.Connections, api.KilledConnection{ConnectionInfo: a.view.connection(v, c), Outcome: api.OutcomeMatched})
		}
	}
}

// collect waits for what became of every session.
func (a *actor) collect(ctx context.Context, endings []session.Ending, result *api.KillResult) error {
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	var errs []error
	result.Verified = true
	for _, e := range endings {
		result.Sessions = append(result.Sessions, e.Session.ID)
		out, err := a.terminator.wait(ctx, e.Number)
		if err != nil {
			errs = append(errs, fmt.Errorf("session %s: %w", e.Session.ID.Short(), err))
			result.Verified = false
			continue
		}
		errs = append(errs, out.Err)
		result.Verified = result.Verified && out.Verified
		if slices.Contains(out.Layers, layerGate) {
			result.Shut = max(result.Shut, out.Shut)
		}
		for _, l := range out.Layers {
			if !slices.Contains(result.Layers, l) {
				result.Layers = append(result.Layers, l)
			}
		}
		for c, what := range out.Result {
			killed := api.KilledConnection{ConnectionInfo: a.view.connection(e.Session, c), Outcome: what}
			switch what {
			case api.OutcomeDestroyed:
				result.Destroyed++
			case api.OutcomeGone:
				result.Gone++
			default:
				result.Left++
			}
			result.Connections = append(result.Connections, killed)
		}
	}
	slices.SortFunc(result.Connections, func(x, y api.KilledConnection) int { return int(x.ID) - int(y.ID) })
	return errors.Join(errs...)
}

// killPatience is how long a kill waits for the enforcer.
const killPatience = 20 * time.Second
