// SPDX-License-Identifier: Apache-2.0

package opinion

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// fakeClock moves when the test says so.
type fakeClock struct{ boot atomic.Int64 }

func (c *fakeClock) Boot() session.Instant   { return session.Instant(c.boot.Load()) }
func (c *fakeClock) Coarse() session.Instant { return c.Boot() }
func (c *fakeClock) Wall() time.Time         { return time.Unix(1_800_000_000, c.boot.Load()) }
func (c *fakeClock) pass(d time.Duration)    { c.boot.Add(int64(d)) }

// rig is an engine that the test plays, and what asks it.
type rig struct {
	*Engines
	clock *fakeClock
	asked atomic.Int64 // requests that came

	mu       sync.Mutex
	outcomes map[string]int
}

func (r *rig) outcome(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outcomes[name]
}

func newRig(t *testing.T, c Config, serve http.HandlerFunc) *rig {
	t.Helper()
	r := &rig{clock: &fakeClock{}, outcomes: map[string]int{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.asked.Add(1)
		serve(w, req)
	}))
	t.Cleanup(server.Close)
	c.Service, c.URL = "db", server.URL+"/v1/data/curfew/allow"
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	var err error
	r.Engines, err = New([]Config{c}, "node-1", r.clock, func(service, outcome string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.outcomes[outcome]++
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.CloseIdle)
	return r
}

// says answers everything with the same body.
func says(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

func question() Question {
	return Question{
		Session: session.Session{ID: session.ID{1}, Method: "browser", Created: time.Unix(1_799_999_000, 0), Deadline: time.Unix(1_800_009_000, 0),
			Identity: session.Identity{Issuer: "https://idp.example", Subject: "alice", Groups: []string{"dba"}, ACR: "mfa"}},
		Service: "db", Source: netip.MustParseAddrPort("[::ffff:10.1.2.3]:4711"),
	}
}

func mustDeny(t *testing.T, err error, text string) {
	t.Helper()
	if session.ReasonOf(err) != session.ReasonDenied || !strings.Contains(err.Error(), text) {
		t.Errorf("error is %v, want a denial that says %q", err, text)
	}
}

// What the engine is told is what docs/policy.md promises.
func TestQuestion(t *testing.T) {
	var body, auth string
	r := newRig(t, Config{Token: "s3cret"}, func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		body, auth = string(b), req.Method+" "+req.URL.Path+" "+req.Header.Get("Content-Type")+" "+req.Header.Get("Authorization")
		if _, sent := req.Header["Idempotency-Key"]; sent {
			t.Error("the header that is a hint to net/http is sent")
		}
		says(`{"result":true}`)(w, req)
	})
	if _, err := r.Ask(question()); err != nil {
		t.Fatal(err)
	}
	if want := "POST /v1/data/curfew/allow application/json Bearer s3cret"; auth != want {
		t.Errorf("request %q, want %q", auth, want)
	}
	var got, want any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal([]byte(`{"input":{"identity":{"issuer":"https://idp.example","subject":"alice","name":"","email":"",
		"groups":["dba"],"acr":"mfa","amr":[],"auth_time":"1970-01-01T00:00:00Z"},
		"session":{"id":"`+session.ID{1}.String()+`","method":"browser","created":"2027-01-15T07:43:20Z","deadline":"2027-01-15T10:30:00Z"},
		"service":"db","source":"10.1.2.3","time":"2027-01-15T08:00:00Z","node":"node-1"}}`), &want)
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if string(g) != string(w) || want == nil {
		t.Errorf("the engine is told\n%s, want\n%s", g, w)
	}
}

// A service without an engine needs no second opinion.
func TestNoEngine(t *testing.T) {
	r := newRig(t, Config{}, says(`{"result":false}`))
	q := question()
	q.Service = "other"
	if _, err := r.Ask(q); err != nil || r.Has("other") || !r.Has("db") || r.asked.Load() != 0 {
		t.Errorf("error %v, asked %d times", err, r.asked.Load())
	}
	if _, err := New([]Config{{Service: "db", CA: []byte("none")}}, "", r.clock, nil); err == nil {
		t.Error("a CA that is none is taken")
	}
}
