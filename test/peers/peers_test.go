// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The peers are real and answer: what a test shows with them is not shown with a mock.
func TestPeersAnswer(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		host, port, _ := net.SplitHostPort(Postgres(t))
		out, err := exec.Command(Find(t, "psql"), "-h", host, "-p", port, "-U", "postgres", "-Atc", "select 6*7").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "42" {
			t.Fatalf("%v: %s", err, out)
		}
	})
	t.Run("redis", func(t *testing.T) {
		_, port, _ := net.SplitHostPort(Redis(t))
		out, err := exec.Command(Find(t, "redis-cli"), "-p", port, "ping").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "PONG" {
			t.Fatalf("%v: %s", err, out)
		}
	})
	t.Run("ssh", func(t *testing.T) {
		s := OpenSSH(t)
		host, port, _ := net.SplitHostPort(s.Addr)
		out, err := s.Command(t, []string{"/bin/bash", "-c", "'exec 3<>/dev/tcp/" + host + "/" + port + "; cat <&3 & cat >&3'"}, "echo", "in").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "in" {
			t.Fatalf("%v: %s", err, out)
		}
	})
	t.Run("websocket", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		ws, _, err := websocket.Dial(ctx, "ws://"+Ticker(t, time.Millisecond), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ws.CloseNow()
		if _, msg, err := ws.Read(ctx); err != nil || string(msg) != "tick 0" {
			t.Fatalf("%v: %s", err, msg)
		}
	})
}
