// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"slices"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// view implements control.View and control.Health: snapshots of what the agent knows.
type view struct {
	table    *session.Table
	clock    session.Clock
	services func() []api.ServiceInfo // as configured; view counts the connections
	status   func() api.Status        // what does not come from the table
}

// Services implements control.View.
func (v *view) Services() []api.ServiceInfo {
	counts := map[string]int{}
	for _, e := range v.table.Select(session.Selector{All: true}, false) {
		for _, c := range e.Conns {
			counts[c.Service]++
		}
	}
	list := v.services()
	for i := range list {
		list[i].Connections = counts[list[i].Name]
	}
	return list
}

// Sessions implements control.View.
func (v *view) Sessions(prefix string) []api.SessionInfo {
	entries := v.table.Select(session.Selector{All: true, ID: prefix}, true)
	list := make([]api.SessionInfo, len(entries))
	for i, e := range entries {
		list[i] = v.session(e.Session, e.Conns)
	}
	return list
}

func (v *view) session(s session.Session, conns []*session.Connection) api.SessionInfo {
	info := api.SessionInfo{
		ID: s.ID, Identity: s.Identity, Key: s.Key, Method: s.Method, Created: s.Created, Deadline: s.Deadline,
		IdleTimeout: api.Seconds(s.IdleTimeout), BindAddrs: s.BindAddrs, Connections: len(conns), State: api.StateLive, Ended: s.Ended,
	}
	for _, c := range conns {
		info.BytesFromClient += c.Activity.BytesFromClient.Load()
		info.BytesFromUpstream += c.Activity.BytesFromUpstream.Load()
	}
	now := v.clock.Boot()
	if s.Ended != nil {
		info.State = api.StateEnded
		return info
	}
	info.Left = api.Seconds(max(s.Until.Sub(now), 0))
	if s.IdleUntil != 0 {
		info.IdleLeft = api.Seconds(max(s.IdleUntil.Sub(now), 0))
	}
	return info
}

// Connections implements control.View.
func (v *view) Connections() []api.ConnectionInfo {
	var list []api.ConnectionInfo
	for _, e := range v.table.Select(session.Selector{All: true}, true) {
		for _, c := range e.Conns {
			list = append(list, v.connection(e.Session, c))
		}
	}
	slices.SortFunc(list, func(a, b api.ConnectionInfo) int { return int(a.ID) - int(b.ID) })
	return list
}

func (v *view) connection(s session.Session, c *session.Connection) api.ConnectionInfo {
	return api.ConnectionInfo{
		ID: c.ID, Session: c.Session(), Subject: s.Identity.Subject, Service: c.Service, Source: c.Source,
		Client: c.Client, Upstream: c.Upstream,
		BytesFromClient: c.Activity.BytesFromClient.Load(), BytesFromUpstream: c.Activity.BytesFromUpstream.Load(),
		Opened: c.Opened, LastActive: v.lastActive(c),
	}
}

func (v *view) lastActive(c *session.Connection) time.Time {
	if c.Activity.LastPayload == nil {
		return c.Opened
	}
	last := max(c.Activity.LastPayload(session.ClientLeg), c.Activity.LastPayload(session.UpstreamLeg))
	if last == 0 {
		return c.Opened
	}
	return v.clock.Wall().Add(-v.clock.Boot().Sub(last))
}

// Status implements control.Health.
func (v *view) Status() api.Status {
	s := v.status()
	s.Sessions, s.Connections = v.table.Count(), v.table.Connections()
	return s
}
