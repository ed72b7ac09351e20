// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"fmt"
	"path/filepath"

	"github.com/curfew-proxy/curfew/agent/control"
	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/metrics"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/agent/store"
)

// openState opens the store, and makes the session table of what it holds.
func (p *proxyProcess) openState() error {
	bootID, err := hostclock.BootID()
	if err != nil {
		return err
	}
	c := p.bundle.Load().Config
	p.metrics = metrics.New(p.version, metrics.Sources{Sessions: func() int { return p.table.Count() }, Gate: p.gateCounters(), Enforcer: p.enforcerCounters})
	p.observe = &observer{log: p.log, events: control.NewEvents(eventsKept), metrics: p.metrics}
	p.store, err = store.Open(store.Config{Dir: c.State, BootID: bootID, Clock: p.clock, OnError: p.observe.storeFailed})
	if err != nil {
		return err
	}
	if p.alarm, err = hostclock.NewAlarm(); err != nil {
		return err
	}
	cfg := session.TableConfig{
		Clock: p.clock, Alarm: p.alarm, Store: p.store, Watermarks: p.store, MaxSessions: c.Sessions.Max, MaxConns: c.Sessions.Connections,
		OnEnd:  func(e session.Ending) { p.terminator.ended(e); p.cluster.ended(e); p.vault.EndLater(e.Session.ID) },
		OnMove: p.moved, OnSupersede: p.followed, OnIdentity: p.described.note,
	}
	if p.bundle.Load().inCluster() {
		if p.cluster, err = newClusterNode(p); err != nil {
			return err
		}
		cfg.Timebase, cfg.OnChange, cfg.OnValidate = p.cluster.time, p.cluster.changed, p.cluster.validated
	}
	if p.table, err = session.NewTable(cfg); err != nil {
		return err
	}
	return p.restore()
}

// restore fills the table with what the store knows.
func (p *proxyProcess) restore() error {
	marks, err := p.store.LoadWatermarks()
	if err != nil {
		return err
	}
	for _, w := range marks {
		p.table.RestoreWatermark(w)
	}
	known, err := p.store.Load()
	if err != nil {
		return err
	}
	for _, s := range known {
		if p.cluster != nil {
			p.cluster.recall(&s)
		}
		if err := p.table.Restore(s); err != nil {
			return fmt.Errorf("restore sessions: %w", err)
		}
	}
	p.log.Info("state opened", "sessions", p.table.Count(), "known", len(known))
	p.localKills = &localKills{path: filepath.Join(p.bundle.Load().Config.State, localKillsFile)}
	return nil
}
