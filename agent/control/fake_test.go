// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// fake is an agent with two live sessions and one that has ended.
type fake struct {
	mu      sync.Mutex
	killed  []api.KillRequest
	by      string
	created []api.CreateSessionRequest

	killGate chan struct{} // if set, Kill waits for it
	killErr  error
	killCtx  chan error // if set, gets the context's error at the end of Kill
}

var (
	idA   = mustID("aaaa000000000000000000000m")
	idB   = mustID("aaaa100000000000000000000m")
	idOld = mustID("zzzz000000000000000000000m")
	t0    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

func mustID(s string) session.ID {
	id, err := session.ParseID(s)
	if err != nil {
		panic(err)
	}
	return id
}

func (f *fake) Services() []api.ServiceInfo {
	return []api.ServiceInfo{{Name: "db", Protocol: "postgres"}, {Name: "cache", Protocol: "tcp"}}
}

func (f *fake) Sessions(prefix string) []api.SessionInfo {
	return slices.DeleteFunc([]api.SessionInfo{
		{ID: idA, Identity: session.Identity{Subject: "alice"}, State: api.StateLive, Created: t0},
		{ID: idB, Identity: session.Identity{Subject: "bob"}, State: api.StateLive, Created: t0.Add(time.Minute)},
		{ID: idOld, Identity: session.Identity{Subject: "alice"}, State: api.StateEnded, Created: t0.Add(-time.Hour)},
	}, func(si api.SessionInfo) bool { return !strings.HasPrefix(si.ID.String(), prefix) })
}

func (f *fake) Connections() []api.ConnectionInfo {
	return []api.ConnectionInfo{
		{ID: 2, Session: idB, Subject: "bob", Service: "db", Opened: t0.Add(2 * time.Minute), Source: netip.MustParseAddrPort("10.0.0.2:1")},
		{ID: 1, Session: idA, Subject: "alice", Service: "db", Opened: t0.Add(time.Minute)},
		{ID: 3, Session: idA, Subject: "alice", Service: "cache", Opened: t0.Add(3 * time.Minute)},
	}
}

func (f *fake) Kill(ctx context.Context, req api.KillRequest, by string) (api.KillResult, error) {
	if f.killGate != nil {
		<-f.killGate
	}
	if f.killCtx != nil {
		f.killCtx <- ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.killed, f.by = append(f.killed, req), by
	return api.KillResult{Sessions: []session.ID{idA}, Destroyed: 2, Verified: true, Took: api.Seconds(time.Millisecond)}, f.killErr
}

func (f *fake) CreateSession(_ context.Context, req api.CreateSessionRequest, _ string) (api.CreateSessionResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created = append(f.created, req)
	return api.CreateSessionResult{Session: api.SessionInfo{ID: idA, Key: req.Key}, CA: "pem", Gateway: "node1:8443"}, nil
}

func (f *fake) Status() api.Status { return api.Status{Node: "node1", Ready: true} }

// serve starts a server for f on a socket of its own, and stops it when the test ends.
func serve(t *testing.T, f *fake, change func(*Config)) (socket string, events *Events) {
	t.Helper()
	socket = filepath.Join(shortDir(t), "c.sock")
	events = NewEvents(64)
	cfg := Config{View: f, Actor: f, Health: f, Events: events, Log: discard()}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Serve did not return")
		}
	})
	return socket, events
}

// shortDir is a directory whose name leaves room in the 108 bytes of a socket's path, and that
// other users may enter.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
