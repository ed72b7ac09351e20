// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
)

// follow runs curfew events --follow until end, which is called when the first event was printed,
// makes it stop.
func follow(t *testing.T, end func(a *scriptAgent, interrupt func())) (code int, stderr string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	agent, err := serveAgent(filepath.Join(dir, "c.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(agent.stop)
	agent.events.Publish(api.Event{Type: api.EventSessionCreated})

	ctx, interrupt := context.WithCancel(t.Context())
	r, w := io.Pipe()
	var errOut bytes.Buffer
	a := &app{out: w, err: &errOut}
	root := a.newRootCmd()
	root.SetArgs([]string{"events", "--follow", "--socket", agent.socket})
	done := make(chan error, 1)
	go func() {
		err := root.ExecuteContext(ctx)
		_ = w.Close()
		done <- err
	}()
	lines := bufio.NewScanner(r)
	if !lines.Scan() || !strings.Contains(lines.Text(), api.EventSessionCreated) {
		t.Errorf("first line: %q", lines.Text())
	}
	end(agent, interrupt)
	for lines.Scan() {
		t.Errorf("another line: %q", lines.Text())
	}
	return a.report(<-done), errOut.String()
}

func TestFollowUntilInterrupted(t *testing.T) {
	code, stderr := follow(t, func(_ *scriptAgent, interrupt func()) { interrupt() })
	if code != exitOK || stderr != "" {
		t.Errorf("exit code %d, %q; want 0 and silence", code, stderr)
	}
}

// A monitor that follows must notice that nothing can come any more.
func TestFollowUntilTheAgentStops(t *testing.T) {
	code, stderr := follow(t, func(a *scriptAgent, _ func()) { a.stop() })
	if code != exitError || !strings.Contains(stderr, "the agent has stopped") {
		t.Errorf("exit code %d, %q; want 1 and that the agent has stopped", code, stderr)
	}
}
