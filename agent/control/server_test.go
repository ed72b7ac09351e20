// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

func TestLists(t *testing.T) {
	socket, _ := serve(t, &fake{}, nil)
	c, ctx := NewClient(socket), t.Context()

	services, err := c.Services(ctx)
	if err != nil || len(services) != 2 || services[0].Name != "cache" {
		t.Errorf("Services = %v, %v; want cache and db", services, err)
	}
	for _, tc := range []struct {
		subject string
		all     bool
		want    []session.ID
	}{
		{"", false, []session.ID{idB, idA}},
		{"", true, []session.ID{idB, idA, idOld}},
		{"alice", true, []session.ID{idA, idOld}},
		{"nobody", true, nil},
	} {
		list, err := c.Sessions(ctx, tc.subject, tc.all)
		var ids []session.ID
		for _, si := range list {
			ids = append(ids, si.ID)
		}
		if err != nil || fmt.Sprint(ids) != fmt.Sprint(tc.want) {
			t.Errorf("Sessions(%q, %v) = %v, %v; want %v", tc.subject, tc.all, ids, err, tc.want)
		}
	}
	for _, tc := range []struct {
		filter ConnectionFilter
		want   []uint64
	}{
		{ConnectionFilter{}, []uint64{1, 2, 3}},
		{ConnectionFilter{Service: "db"}, []uint64{1, 2}},
		{ConnectionFilter{Session: idA.Short()}, []uint64{1, 3}},
		{ConnectionFilter{Subject: "bob", Service: "db"}, []uint64{2}},
	} {
		list, err := c.Connections(ctx, tc.filter)
		var ids []uint64
		for _, ci := range list {
			ids = append(ids, ci.ID)
		}
		if err != nil || fmt.Sprint(ids) != fmt.Sprint(tc.want) {
			t.Errorf("Connections(%+v) = %v, %v; want %v", tc.filter, ids, err, tc.want)
		}
	}
	if st, err := c.Status(ctx); err != nil || st.Node != "node1" {
		t.Errorf("Status = %+v, %v", st, err)
	}
}

// codeOf returns the code of an API error, "" for none.
func codeOf(err error) string {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func TestSessionByPrefix(t *testing.T) {
	socket, _ := serve(t, &fake{}, nil)
	c := NewClient(socket)
	for prefix, want := range map[string]string{
		idA.String():                    "",
		strings.ToUpper(idA.String()):   "",
		"aaaa0":                         "",
		"aaaa":                          api.CodeBadRequest, // two sessions
		"aaa":                           api.CodeBadRequest, // too short
		"bbbb":                          api.CodeNotFound,
		"aaaa0/../../services":          api.CodeNotFound,
		"aaaa000000000000000000000m000": api.CodeNotFound,
	} {
		si, err := c.Session(t.Context(), prefix)
		if got := codeOf(err); got != want {
			t.Errorf("Session(%q) = %v, want code %q", prefix, err, want)
		}
		if err == nil && si.ID != idA {
			t.Errorf("Session(%q) is %s, want %s", prefix, si.ID, idA)
		}
	}
}

func TestKill(t *testing.T) {
	for name, tc := range map[string]struct {
		req  api.KillRequest
		code string
		want api.KillRequest
	}{
		"prefix becomes an id": {req: api.KillRequest{Session: "aaaa0", Reason: "gone"}, want: api.KillRequest{Session: idA.String(), Reason: "gone"}},
		"all":                  {req: api.KillRequest{All: true}, want: api.KillRequest{All: true}},
		"nothing selected":     {req: api.KillRequest{Reason: "oops"}, code: api.CodeBadRequest},
		"all and a subject":    {req: api.KillRequest{All: true, Subject: "bob"}, code: api.CodeBadRequest},
		"no such session":      {req: api.KillRequest{Session: "qqqqqq"}, code: api.CodeNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{}
			socket, _ := serve(t, f, nil)
			res, err := NewClient(socket).Kill(t.Context(), tc.req)
			if codeOf(err) != tc.code {
				t.Fatalf("Kill: %v, want code %q", err, tc.code)
			}
			if tc.code != "" {
				if len(f.killed) != 0 {
					t.Errorf("the agent was asked for %+v", f.killed)
				}
				return
			}
			if res.Destroyed != 2 || res.Took.Duration() != time.Millisecond {
				t.Errorf("result %+v", res)
			}
			if len(f.killed) != 1 || f.killed[0] != tc.want || f.by != "root@control" {
				t.Errorf("the agent was asked for %+v by %q, want %+v", f.killed, f.by, tc.want)
			}
		})
	}
}

// A misspelt selector that was ignored would make a kill wider than it was meant.
func TestUnknownSelectorIsRefused(t *testing.T) {
	f := &fake{}
	socket, _ := serve(t, f, nil)
	c := NewClient(socket)
	for _, body := range []string{`{"all":true,"subjct":"bob"}`, `{"all":true}{"all":true}`, `[]`, ``, `{"all":1}`} {
		err := c.roundTrip(t.Context(), http.MethodPost, "/v1/kill", []byte(body), &api.KillResult{})
		if codeOf(err) != api.CodeBadRequest {
			t.Errorf("%s: %v, want a bad request", body, err)
		}
	}
	if len(f.killed) != 0 {
		t.Errorf("killed %+v", f.killed)
	}
}

// An operator who presses Ctrl-C after the kill began must not leave it half done.
func TestKillOutlivesItsCaller(t *testing.T) {
	f := &fake{killGate: make(chan struct{}), killCtx: make(chan error, 1)}
	socket, _ := serve(t, f, nil)
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := NewClient(socket).Kill(ctx, api.KillRequest{All: true})
		answered <- err
	}()
	select {
	case f.killGate <- struct{}{}: // the kill has begun
	case <-time.After(10 * time.Second):
		t.Fatal("the kill did not begin")
	}
	cancel()
	<-answered
	if err := <-f.killCtx; err != nil {
		t.Errorf("the kill's context ended with its caller: %v", err)
	}
}

func TestErrorsOfTheBackend(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code string
	}{
		{session.ErrNotFound, api.CodeNotFound},
		{fmt.Errorf("create: %w", session.ErrTooMany), api.CodeTooMany},
		{&api.Error{Code: api.CodeBadRequest, Message: "where: no such field", Hint: "h"}, api.CodeBadRequest},
		{&api.Error{Code: "a code of tomorrow", Message: "m"}, "a code of tomorrow"},
		{errors.New("boom"), api.CodeInternal},
	} {
		socket, _ := serve(t, &fake{killErr: tc.err}, nil)
		_, err := NewClient(socket).Kill(t.Context(), api.KillRequest{All: true})
		if codeOf(err) != tc.code {
			t.Errorf("%v became %v, want code %q", tc.err, err, tc.code)
		}
	}
}

func TestCreateSession(t *testing.T) {
	good := api.CreateSessionRequest{Subject: "ci", TTL: api.Seconds(time.Hour), Key: session.Key{1}}
	for name, tc := range map[string]struct {
		change func(*api.CreateSessionRequest)
		code   string
	}{
		"good":            {func(*api.CreateSessionRequest) {}, ""},
		"no subject":      {func(r *api.CreateSessionRequest) { r.Subject = "" }, api.CodeBadRequest},
		"control subject": {func(r *api.CreateSessionRequest) { r.Subject = "a\x1b[2J" }, api.CodeBadRequest},
		"no ttl":          {func(r *api.CreateSessionRequest) { r.TTL = 0 }, api.CodeBadRequest},
		"negative idle":   {func(r *api.CreateSessionRequest) { r.Idle = -1 }, api.CodeBadRequest},
		"no address":      {func(r *api.CreateSessionRequest) { r.BindAddrs = make([]netip.Addr, 1) }, api.CodeBadRequest},
		"no key":          {func(r *api.CreateSessionRequest) { r.Key = session.Key{} }, api.CodeBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{}
			socket, _ := serve(t, f, nil)
			req := good
			tc.change(&req)
			res, err := NewClient(socket).CreateSession(t.Context(), req)
			if codeOf(err) != tc.code {
				t.Fatalf("CreateSession: %v, want code %q", err, tc.code)
			}
			if asked := len(f.created); asked != 0 != (tc.code == "") {
				t.Errorf("the agent was asked %d times", asked)
			}
			if err == nil && (res.CA != "pem" || res.Session.Key != good.Key) {
				t.Errorf("result %+v", res)
			}
		})
	}
}

func TestFollowEvents(t *testing.T) {
	socket, events := serve(t, &fake{}, nil)
	publish(events, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var seqs []uint64
	err := NewClient(socket).Events(ctx, 0, true, func(ev api.Event) error {
		seqs = append(seqs, ev.Seq)
		switch len(seqs) {
		case 2:
			publish(events, 1)
		case 3:
			cancel()
		}
		return nil
	})
	if err != nil || fmt.Sprint(seqs) != "[1 2 3]" {
		t.Errorf("Events: %v, %v; want 1 to 3 and no error", seqs, err)
	}
}

func TestEventsOnce(t *testing.T) {
	socket, events := serve(t, &fake{}, nil)
	publish(events, 600) // the ring holds 64
	var types []string
	err := NewClient(socket).Events(t.Context(), 500, false, func(ev api.Event) error {
		if len(types) == 0 && ev.Lost != 36 {
			t.Errorf("lost %d, want 36", ev.Lost)
		}
		types = append(types, ev.Type)
		return nil
	})
	if err != nil || len(types) != 65 || types[0] != api.EventLost {
		t.Errorf("Events: %v, %v", types, err)
	}
}

// A follower that never reads must neither hold up the agent nor its end.
func TestStuckFollower(t *testing.T) {
	f := &fake{}
	socket := filepath.Join(shortDir(t), "c.sock")
	events := NewEvents(1 << 16)
	s, err := New(Config{View: f, Actor: f, Health: f, Events: events, Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /v1/events?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
	publish(events, 1<<16)
	if _, err := NewClient(socket).Status(t.Context()); err != nil {
		t.Errorf("Status beside a stuck follower: %v", err)
	}
	cancel()
	_ = c.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Serve did not return")
	}
}

func TestMetricsAndUnknownPaths(t *testing.T) {
	socket, _ := serve(t, &fake{}, func(cfg *Config) {
		cfg.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"node":"metrics"}`) })
	})
	c := NewClient(socket)
	var st api.Status
	if err := c.roundTrip(t.Context(), http.MethodGet, "/metrics", nil, &st); err != nil || st.Node != "metrics" {
		t.Errorf("/metrics: %+v, %v", st, err)
	}
	if err := c.roundTrip(t.Context(), http.MethodGet, "/v2/status", nil, &st); codeOf(err) != api.CodeNotFound {
		t.Errorf("/v2/status: %v", err)
	}
	if err := c.roundTrip(t.Context(), http.MethodDelete, "/v1/status", nil, &st); codeOf(err) != api.CodeNotFound {
		t.Errorf("DELETE /v1/status: %v", err)
	}
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	if _, err := New(Config{View: &fake{}, Actor: &fake{}, Health: &fake{}, Log: discard()}); err == nil || !strings.Contains(err.Error(), "Events") {
		t.Errorf("New: %v, want an error that names Events", err)
	}
}
