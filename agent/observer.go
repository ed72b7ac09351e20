// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/control"
	"github.com/curfew-proxy/curfew/agent/metrics"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/proxy"
)

// observer is the one place where what happens is logged, counted and published as an event. Safe
// for concurrent use; it does not block.
type observer struct {
	log     *slog.Logger
	events  *control.Events
	metrics *metrics.Metrics
}

func (o *observer) publish(e api.Event) {
	e.Time = time.Now()
	o.events.Publish(e)
}

func (o *observer) created(s session.Session, by string) {
	o.log.Info("session created", "session", s.ID, "subject", s.Identity.Subject, "issuer", s.Identity.Issuer,
		"method", s.Method, "deadline", s.Deadline, "idle_timeout", s.IdleTimeout, "by", by)
	o.publish(api.Event{Type: api.EventSessionCreated, Session: s.ID, Subject: s.Identity.Subject, By: by, Detail: s.Method})
}

// Refused implements proxy.Observer.
func (o *observer) Refused(r proxy.Refused) {
	e := api.Event{Type: api.EventConnectionRefused, Service: r.Service, Source: r.Source, Reason: r.Reason, Decision: r.Decision}
	attrs := withDecision([]any{"service", r.Service, "source", r.Source, "reason", r.Reason}, r.Decision)
	if r.Session != nil {
		e.Session, e.Subject = r.Session.ID, r.Session.Identity.Subject
		attrs = append(attrs, "session", r.Session.ID, "subject", r.Session.Identity.Subject)
	}
	if r.Err != nil {
		e.Detail = r.Err.Error()
		attrs = append(attrs, "error", r.Err)
	}
	o.log.Warn("connection refused", attrs...)
	o.metrics.Refused(r.Service, r.Reason)
	o.publish(e)
}

// Relayed implements proxy.Observer.
func (o *observer) Relayed(r proxy.Relayed) {
	c := r.Connection
	attrs := []any{"session", c.Session(), "subject", r.Session.Identity.Subject, "service", c.Service, "source", c.Source, "connection", c.ID}
	if r.Plain {
		attrs = append(attrs, "admitted_by", "source address")
	}
	attrs = withDecision(attrs, r.Decision)
	o.log.Info("connection opened", attrs...)
	o.metrics.ConnectionOpened(c.Service)
	o.publish(api.Event{Type: api.EventConnectionOpened, Session: c.Session(), Subject: r.Session.Identity.Subject, Service: c.Service, Source: c.Source, Decision: r.Decision})
}

// withDecision adds what ties a line to one in the log of an outside policy engine.
func withDecision(attrs []any, decision string) []any {
	if decision == "" {
		return attrs
	}
	return append(attrs, "decision_id", decision)
}

// closed accounts for a connection that was relayed. What ended the session is the reason, where it ended.
func (o *observer) closed(c *session.Connection, reason session.Reason, err error, ended *session.End) {
	if ended != nil {
		reason = ended.Reason
	}
	up, down := c.Activity.BytesFromClient.Load(), c.Activity.BytesFromUpstream.Load()
	attrs := []any{"session", c.Session(), "service", c.Service, "source", c.Source, "connection", c.ID, "reason", reason,
		"bytes_from_client", up, "bytes_from_upstream", down, "duration", time.Since(c.Opened)}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	o.log.Info("connection closed", attrs...)
	o.metrics.ConnectionClosed(c.Service, reason, up, down)
	o.publish(api.Event{Type: api.EventConnectionClosed, Session: c.Session(), Service: c.Service, Source: c.Source, Reason: reason})
}

// ended reports the end of a session, once it is proven.
func (o *observer) ended(out outcome) {
	s := out.Ending.Session
	attrs := []any{"session", s.ID, "subject", s.Identity.Subject, "reason", s.Ended.Reason, "by", s.Ended.By, "connections", len(out.Ending.Conns),
		"verified", out.Verified, "took", out.Took, "late", out.Late, "layers", out.Layers, "dropped_packets", out.Dropped.Packets}
	level := slog.LevelInfo
	if out.Err != nil {
		level = slog.LevelError
		attrs = append(attrs, "error", out.Err)
	}
	o.log.Log(context.Background(), level, "session ended", attrs...)
	o.metrics.SessionEnded(s.Ended.Reason)
	if s.Ended.Reason.Timeout() {
		o.metrics.DeadlineLate(out.Late)
	}
	destroyed, left := 0, 0
	for _, what := range out.Result {
		switch what {
		case api.OutcomeDestroyed:
			destroyed++
		case api.OutcomeLeft:
			left++
		}
	}
	if len(out.Layers) > 0 {
		o.metrics.Destroyed(out.Layers[len(out.Layers)-1], 2*destroyed)
	}
	if !s.Ended.Reason.Timeout() {
		o.metrics.Killed(out.Took, left)
	}
	o.publish(api.Event{Type: api.EventSessionEnded, Session: s.ID, Subject: s.Identity.Subject, Reason: s.Ended.Reason, By: s.Ended.By,
		Detail: fmt.Sprintf("%d connections, verified %t, took %v", len(out.Ending.Conns), out.Verified, out.Took)})
}

func (o *observer) killed(req api.KillRequest, r api.KillResult, by string, err error) {
	attrs := []any{"by", by, "request", req, "sessions", len(r.Sessions), "destroyed", r.Destroyed, "gone", r.Gone, "left", r.Left, "verified", r.Verified, "took", r.Took}
	level := slog.LevelWarn
	if err != nil {
		level = slog.LevelError
		attrs = append(attrs, "error", err)
	}
	o.log.Log(context.Background(), level, "kill", attrs...)
	o.publish(api.Event{Type: api.EventKill, By: by, Detail: fmt.Sprintf("%d sessions, %d connections destroyed, %d left", len(r.Sessions), r.Destroyed, r.Left)})
}

// storeFailed reports that what can wait was not written to the session file.
func (o *observer) storeFailed(err error) {
	o.log.Error("session file not written; it is tried again", "error", err, "hint", "is the disk full?")
	o.metrics.StoreError("flush")
}
