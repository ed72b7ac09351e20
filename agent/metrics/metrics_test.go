// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/curfew-proxy/curfew/agent/session"
)

func scrape(t *testing.T, m *Metrics) (status int, text string) {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Code, w.Body.String()
}

func sources() Sources {
	return Sources{
		Sessions: func() int { return 7 },
		Gate:     func() (map[string]uint64, error) { return map[string]uint64{"session-over": 3}, nil },
		Enforcer: func() (uint64, uint64, uint64) { return 5, 4, 1 },
	}
}

// touch makes every metric appear once.
func touch(m *Metrics) {
	m.ConnectionOpened("db")
	m.ConnectionOpened("db")
	m.ConnectionClosed("db", session.ReasonKilled, 10, 20)
	m.Refused("", session.ReasonUnknownKey)
	m.SessionEnded(session.ReasonIdle)
	m.Killed(300*time.Microsecond, 1)
	m.DeadlineLate(time.Millisecond)
	m.Destroyed("destroy", 2)
	m.Cluster("engine", "sync_rounds", 1)
	m.Login("login-completed")
	m.Opinion("db", "denied")
	m.StoreError("save")
}

func TestCounts(t *testing.T) {
	m := New("v1.2.3", sources())
	touch(m)
	status, text := scrape(t, m)
	if status != 200 {
		t.Fatalf("status %d\n%s", status, text)
	}
	for _, want := range []string{
		`curfew_build_info{version="v1.2.3"} 1`,
		`curfew_sessions 7`,
		`curfew_connections{service="db"} 1`,
		`curfew_connections_total{reason="killed",service="db"} 1`,
		`curfew_refused_total{reason="unknown-key",service=""} 1`,
		`curfew_bytes_total{from="client",service="db"} 10`,
		`curfew_bytes_total{from="upstream",service="db"} 20`,
		`curfew_sessions_ended_total{reason="idle-timeout"} 1`,
		`curfew_kill_seconds_bucket{le="0.0005"} 1`,
		`curfew_kill_seconds_bucket{le="0.00025"} 0`,
		`curfew_deadline_lateness_seconds_count 1`,
		`curfew_sockets_destroyed_total{layer="destroy"} 2`,
		`curfew_sockets_left_total 1`,
		`curfew_logins_total{result="login-completed"} 1`,
		`curfew_policy_engine_answers_total{result="denied",service="db"} 1`,
		`curfew_store_errors_total{operation="save"} 1`,
		`curfew_heartbeats_missing_total 1`,
		`curfew_sweeps_total 5`,
		`curfew_sockets_swept_total 4`,
		`curfew_gate_packets_total{verdict="session-over"} 3`,
		`go_goroutines `,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
}

// A scrape that cannot read the gate must fail, not say that nothing was dropped.
func TestUnreadableGate(t *testing.T) {
	src := sources()
	src.Gate = func() (map[string]uint64, error) { return nil, errors.New("no map") }
	if status, text := scrape(t, New("v", src)); status != 500 || !strings.Contains(text, "no map") {
		t.Errorf("status %d: %s", status, text)
	}
	src.Gate = nil
	if status, text := scrape(t, New("v", src)); status != 200 || strings.Contains(text, "curfew_gate") {
		t.Errorf("without a gate: status %d", status)
	}
}

func TestAgentsDoNotShareARegistry(t *testing.T) {
	a, b := New("v", sources()), New("v", sources())
	a.Killed(time.Millisecond, 1)
	if _, text := scrape(t, b); !strings.Contains(text, "\ncurfew_sockets_left_total 0") {
		t.Error("the second agent counts what the first has missed")
	}
}

// row matches | `name` | kind | labels | help | in the documentation.
var row = regexp.MustCompile("(?m)^\\| `(curfew_[a-z_]+)` \\| (\\w+) \\| ([^|]*) \\| (.*) \\|$")

func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, r := range row.FindAllStringSubmatch(string(text), -1) {
		documented[r[1]] = r[0]
	}
	m := New("v", sources())
	touch(m)
	for name, want := range described(t, m) {
		if have := documented[name]; have != want {
			t.Errorf("docs/metrics.md: have %q\nwant %s", have, want)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/metrics.md has %s, which does not exist", name)
	}
}

// described renders the row of each metric, from what it says of itself.
func described(t *testing.T, m *Metrics) map[string]string {
	t.Helper()
	own := prometheus.NewRegistry()
	own.MustRegister(m.own...)
	families, err := own.Gather()
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		rows[f.GetName()] = fmt.Sprintf("| `%s` | %s | %s | %s |", f.GetName(),
			strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	if len(rows) != len(m.own) {
		t.Errorf("%d of %d metrics were touched", len(rows), len(m.own))
	}
	return rows
}
