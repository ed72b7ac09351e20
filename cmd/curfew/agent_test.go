// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/control"
	"github.com/curfew-proxy/curfew/agent/session"
)

// scriptAgent is what stands behind the control server of a script.
type scriptAgent struct {
	socket string
	events *control.Events
	stop   func() // ends the server

	mu       sync.Mutex
	left     int
	unproven bool
	silent   bool // a node of the cluster
	killed   api.KillRequest
	created  api.CreateSessionRequest
}

type agentKey struct{}

// startAgent gives a script its agent.
func startAgent(env *testscript.Env) error {
	dir, err := os.MkdirTemp("", "cli") // sockets take short names only
	if err != nil {
		return err
	}
	a, err := serveAgent(filepath.Join(dir, "control.sock"))
	if err != nil {
		return err
	}
	env.Defer(func() { a.stop(); _ = os.RemoveAll(dir) })
	env.Setenv("CURFEW_SOCKET", a.socket)
	env.Setenv("TZ", "UTC")
	env.Values[agentKey{}] = a
	return nil
}

// serveAgent starts a control server with a made-up agent; the caller stops it.
func serveAgent(socket string) (*scriptAgent, error) {
	a := &scriptAgent{socket: socket, events: control.NewEvents(16)}
	srv, err := control.New(control.Config{View: a, Actor: a, Health: a, Cluster: a, Events: a.events, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ctx, ln)
	}()
	a.stop = func() { cancel(); <-done }
	return a, nil
}

func agentCmd(ts *testscript.TestScript, _ bool, args []string) {
	a := ts.Value(agentKey{}).(*scriptAgent)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch args[0] {
	case "off":
		a.stop()
	case "hang":
		a.stop()
		ln, err := net.Listen("unix", ts.Getenv("CURFEW_SOCKET"))
		ts.Check(err)
		ts.Defer(func() { _ = ln.Close() })
	case "left":
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		a.left = n
	case "silent":
		a.silent = true
	case "unproven":
		a.unproven = true
	case "event":
		a.events.Publish(api.Event{Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Type: api.EventConnectionRefused,
			Session: alice.ID, Subject: "alice", Service: "db", Source: netip.MustParseAddrPort("10.0.0.7:4711"), Reason: session.ReasonDenied})
	case "killed":
		_, _ = fmt.Fprintf(ts.Stdout(), "%+v\n", a.killed)
	case "created":
		_, _ = fmt.Fprintf(ts.Stdout(), "%+v\n", a.created)
	default:
		ts.Fatalf("agent: what is %q?", args[0])
	}
}

// codeCmd runs a command and compares its exit code; what it printed can be looked at.
func codeCmd(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	var exitErr *exec.ExitError
	err = ts.Exec(args[1], args[2:]...)
	have := 0
	if errors.As(err, &exitErr) {
		have = exitErr.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if have != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), have, want)
	}
}

func modeCmd(ts *testscript.TestScript, _ bool, args []string) {
	fi, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if have := fmt.Sprintf("%04o", fi.Mode().Perm()); have != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], have, args[0])
	}
}

var (
	alice = api.SessionInfo{
		ID: id("aaaa000000000000000000000m"), Method: "browser", State: api.StateLive, Connections: 1,
		Identity: session.Identity{Issuer: "https://idp.example", Subject: "alice", Name: "Alice", Groups: []string{"dba", "dev"}},
		Left:     api.Seconds(11*time.Hour + 30*time.Minute), IdleTimeout: api.Seconds(time.Hour), IdleLeft: api.Seconds(42*time.Minute + 30*time.Second),
		BytesFromClient: 1536, BytesFromUpstream: 5 << 20,
	}
	mallory = api.SessionInfo{ // whose provider lets users choose their names
		ID: id("bbbb000000000000000000000m"), Method: "device", State: api.StateLive,
		Identity: session.Identity{Subject: "mallory", Name: "root\x1b[2J\u202e"}, Left: api.Seconds(90 * time.Second),
	}
	gone = api.SessionInfo{
		ID: id("aaaa1c0000000000000000000m"), Method: "browser", State: api.StateEnded, Identity: session.Identity{Subject: "alice"},
		Ended: &session.End{Reason: session.ReasonKilled, By: "root@control", Message: "laptop stolen"},
	}
	conn = api.ConnectionInfo{
		ID: 1, Session: alice.ID, Subject: "alice", Service: "db", Source: netip.MustParseAddrPort("10.0.0.7:4711"),
		Upstream: session.Socket{Cookie: 77, Leg: session.UpstreamLeg, Tuple: session.Tuple{
			Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.0.0.5:5432")}},
		BytesFromClient: 1536, BytesFromUpstream: 5 << 20,
	}
)

func id(s string) session.ID {
	id, err := session.ParseID(s)
	if err != nil {
		panic(err)
	}
	return id
}

func (a *scriptAgent) Services() []api.ServiceInfo {
	return []api.ServiceInfo{
		{Name: "db", Protocol: "postgres", Listen: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:5432")}, Upstream: "10.0.0.5:5432",
			Allow: "\"dba\" in\n  identity.groups", Connections: 1},
		{Name: "cache", Protocol: "tcp", Upstream: "10.0.0.6:6379", Allow: "true"},
	}
}

func (a *scriptAgent) Sessions(prefix string) []api.SessionInfo {
	list := []api.SessionInfo{alice, mallory, gone}
	now := time.Now()
	for i, age := range []time.Duration{30 * time.Minute, time.Hour + 30*time.Minute, 3*24*time.Hour + time.Hour} {
		list[i].Created = now.Add(-age)
		list[i].Deadline = list[i].Created.Add(12 * time.Hour)
	}
	list[2].Ended = &session.End{Reason: gone.Ended.Reason, By: gone.Ended.By, Message: gone.Ended.Message, At: now.Add(-150 * time.Second)}
	return slices.DeleteFunc(list, func(s api.SessionInfo) bool { return !strings.HasPrefix(s.ID.String(), prefix) })
}

func (a *scriptAgent) Connections() []api.ConnectionInfo {
	c := conn
	c.Opened, c.LastActive = time.Now().Add(-10*time.Minute-time.Second), time.Now()
	return []api.ConnectionInfo{c}
}

func (a *scriptAgent) Kill(_ context.Context, req api.KillRequest, _ string) (api.KillResult, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.killed = req
	if req.Where == "bad" {
		return api.KillResult{}, &api.Error{Code: api.CodeBadRequest, Message: "where: 1:1: undeclared reference to 'bad'", Hint: "see docs/policy.md"}
	}
	res := api.KillResult{DryRun: req.DryRun, Sessions: []session.ID{}, Took: api.Seconds(912345), Layers: []string{"destroy"}}
	if req.Subject != "" && req.Subject != "alice" {
		return res, nil
	}
	res.Sessions = append(res.Sessions, alice.ID)
	res.Connections = []api.KilledConnection{{ConnectionInfo: conn, Outcome: api.OutcomeDestroyed}}
	res.Destroyed = 1 - a.left
	res.Left = a.left
	res.Verified = !a.unproven && a.left == 0
	if a.silent {
		res.Nodes = a.killedNodes(req)
	}
	switch {
	case req.DryRun:
		res.Destroyed, res.Connections[0].Outcome = 0, api.OutcomeMatched
	case a.left > 0:
		res.Connections[0].Outcome, res.Connections[0].Error = api.OutcomeLeft, "operation not permitted"
	}
	return res, nil
}

func (a *scriptAgent) killedNodes(req api.KillRequest) []api.KilledNode {
	other := api.KillSilent
	if req.NoWait {
		other = api.KillSent
	}
	return []api.KilledNode{
		{Name: "node1", State: api.KillAcknowledged, Destroyed: 1, Took: api.Seconds(912345), Verified: true},
		{Name: "node2", State: api.KillAcknowledged, Acknowledged: api.Seconds(2 * time.Millisecond), Destroyed: 3, Took: api.Seconds(time.Millisecond), Verified: true},
		{Name: "node3", State: other},
	}
}

func (a *scriptAgent) Nodes() api.ClusterInfo {
	a.mu.Lock()
	defer a.mu.Unlock()
	info := api.ClusterInfo{ID: "c7", Node: "node1", Ready: true, Majority: !a.silent, Nodes: []api.NodeInfo{
		{Name: "node2", Address: "10.0.0.2:7946", State: api.NodeAlive, Version: "v1", Sessions: 3, Connections: 2, RoundTrip: api.Seconds(412 * time.Microsecond),
			ClockError: api.Seconds(206 * time.Microsecond), WallOffset: api.Seconds(-2 * time.Hour), Compared: time.Now()},
		{Name: "node1", Self: true, Address: "10.0.0.1:7946", State: api.NodeAlive, Version: "v1", Sessions: 3, Connections: 1},
	}}
	if a.silent {
		info.Since, info.Suspended = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), []string{"db"}
		info.Nodes[0].State, info.Nodes[0].Since = api.NodeDead, time.Now().Add(-150*time.Second)
	}
	return info
}

func (a *scriptAgent) Token(_ context.Context, req api.TokenRequest, _ string) (api.TokenResult, error) {
	return api.TokenResult{Token: fmt.Sprintf("curfew-join-1.%d-%v-%v", req.Uses, req.TTL, req.Replace), Expires: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, nil
}

func (a *scriptAgent) Change(_ context.Context, req api.ClusterChange, _ string) error {
	if req.Remove == "nobody" {
		return &api.Error{Code: api.CodeNotFound, Message: "there is no node nobody", Hint: "list them with: curfew nodes"}
	}
	return nil
}

func (a *scriptAgent) CreateSession(_ context.Context, req api.CreateSessionRequest, _ string) (api.CreateSessionResult, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.created = req
	if req.Subject == "toomany" {
		return api.CreateSessionResult{}, fmt.Errorf("create session: %w", session.ErrTooMany)
	}
	s := alice
	s.Identity = session.Identity{Subject: req.Subject, Groups: req.Groups}
	s.Key, s.Left = req.Key, req.TTL
	return api.CreateSessionResult{Session: s, CA: "-----BEGIN CERTIFICATE-----\n", Gateway: "node1:8443"}, nil
}

func (a *scriptAgent) Status() api.Status { return api.Status{Node: "node1", Ready: true} }
