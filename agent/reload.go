// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/policy"
	"github.com/curfew-proxy/curfew/agent/session"
)

// reloads takes a new configuration into service when the enforcer says that there is one, until ctx is
// done. What cannot be taken over without a restart is named in the log; on an error everything
// stays as it was.
func (p *proxyProcess) reloads(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.link.Reload():
		}
		if err := p.reload(ctx); err != nil {
			p.log.Error("configuration not reloaded: the old one stays", "error", err)
			p.observe.publish(api.Event{Type: api.EventReload, Detail: "refused: " + err.Error()})
		}
	}
}

func (p *proxyProcess) reload(ctx context.Context) error {
	b, err := readBundle(p.files[fileBundle])
	if err != nil {
		return err
	}
	services, err := b.proxyServices()
	if err != nil {
		return err
	}
	take, err := p.prepare(b)
	if err != nil {
		return err
	}
	if err := p.proxy.Update(services); err != nil { // the last that can fail
		return fmt.Errorf("services: %w", err)
	}
	p.bundle.Store(b)
	for _, t := range take {
		t()
	}
	later := append(needRestart(p.begun, b), p.cluster.needRestart(ctx)...)
	p.log.Info("configuration reloaded", "services", len(services), "need_restart", later)
	p.observe.publish(api.Event{Type: api.EventReload, Detail: strings.TrimSpace("services taken over. Needs a restart: " + strings.Join(later, ", "))})
	p.reauthorise(ctx)
	return nil
}

// prepare checks all of a new configuration but its services, and returns what takes it into service: none of that can fail.
func (p *proxyProcess) prepare(b *bundle) (take []func(), err error) {
	for _, part := range []func(*bundle) (func(), error){
		p.prepareCertificate, p.prepareProviders, p.prepareMachines, p.preparePolicy, p.prepareEngines, p.prepareSignals,
	} {
		t, err := part(b)
		if err != nil {
			return nil, err
		}
		take = append(take, t)
	}
	return take, nil
}

func (p *proxyProcess) prepareCertificate(b *bundle) (func(), error) {
	if b.Config.TLS.Certificate == "" {
		return func() {}, nil
	}
	return p.cert.Prepare(b.Files[b.Config.TLS.Certificate], b.Files[b.Config.TLS.Key])
}

func (p *proxyProcess) prepareMachines(b *bundle) (func(), error) {
	machines, err := b.machines()
	if err != nil {
		return nil, err
	}
	return p.machines.Prepare(machines)
}

func (p *proxyProcess) preparePolicy(b *bundle) (func(), error) {
	set, err := policy.NewSet(b.rules(), p.clock.Wall)
	if err != nil {
		return nil, err
	}
	return func() { p.policy.Store(set) }, nil
}

func (p *proxyProcess) prepareEngines(b *bundle) (func(), error) {
	engines, err := p.newEngines(b)
	if err != nil {
		return nil, err
	}
	return func() {
		if old := p.engines.Swap(engines); old != nil {
			old.CloseIdle()
		}
	}, nil
}

func (p *proxyProcess) prepareSignals(b *bundle) (func(), error) {
	c := b.signals()
	c.Sessions, c.Log, c.Count = p.endings(), p.log, p.metrics.Login
	next, err := p.signals.prepare(c)
	return func() { p.signals.set(next) }, err
}

// needRestart names the keys that are read at the start only, and say something else now than they did then.
func needRestart(begun, b *bundle) []string {
	var keys []string
	old, now := begun.Config, b.Config
	for _, k := range []struct {
		name     string
		old, now any
	}{
		{"name", old.Name, now.Name}, {"listen", old.Listen, now.Listen}, {"url", old.URL, now.URL}, {"state", old.State, now.State},
		{"run", old.Run, now.Run}, {"user", old.User, now.User}, {"control_socket", old.ControlSocket, now.ControlSocket},
		{"metrics", old.Metrics, now.Metrics}, {"cluster", startsWith(old.Cluster), startsWith(now.Cluster)}, {"enforcement", old.Enforcement, now.Enforcement}, {"limits", old.Limits, now.Limits},
		{"sessions.max", old.Sessions.Max, now.Sessions.Max},
		{"sessions.connections", old.Sessions.Connections, now.Sessions.Connections},
		{"tls (between self-made and own)", old.TLS.Certificate == "", now.TLS.Certificate == ""},
		// It is a setting of the process, which those who need it begin with: see proxyEnv.
		{"providers, machines (what is freed of tokens is overwritten only then)", begun.hasTokens() || !b.hasTokens(), true},
	} {
		if !reflect.DeepEqual(k.old, k.now) {
			keys = append(keys, k.name)
		}
	}
	return keys
}

// startsWith is what of a cluster's keys is read at the start.
func startsWith(c config.Cluster) config.Cluster {
	c.StrictAfter = 0
	return c
}

// reauthorise asks the new policy about every live connection, and ends those that it no longer allows.
func (p *proxyProcess) reauthorise(ctx context.Context) {
	p.changes.note(p.clock.Boot())
	p.reauthoriseAll(ctx, p.lives(session.Selector{All: true}))
}

// reauthoriseSessions asks policy about the connections of some sessions, of which a provider says other things than before.
func (p *proxyProcess) reauthoriseSessions(ctx context.Context, ids ...session.ID) {
	if len(ids) == 0 {
		return
	}
	p.changes.note(p.clock.Boot(), ids...)
	var list []live
	for _, id := range ids {
		list = append(list, p.lives(session.Selector{ID: id.String()})...)
	}
	p.reauthoriseAll(ctx, list)
}

// lives are the connections of some sessions.
func (p *proxyProcess) lives(which session.Selector) (list []live) {
	for _, e := range p.table.Select(which, false) {
		list = append(list, livesOf(e.Session, e.Conns)...)
	}
	return list
}

// livesOf are the connections of one session.
func livesOf(s session.Session, conns []*session.Connection) []live {
	list := make([]live, len(conns))
	for i, c := range conns {
		list[i] = live{s, c}
	}
	return list
}
