// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/test/jwt"
)

type object = map[string]any

// sessions is a Sessions that remembers what it was asked for.
type sessions struct {
	mu     sync.Mutex
	calls  []string // "end sub alice@https://..." and the like
	last   session.End
	since  time.Time // that a fresh sign-in was asked for
	fail   error
	before func() // called first, without the lock
}

func (s *sessions) End(ctx context.Context, m session.Match, e session.End) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.last = e
	s.mu.Unlock()
	return s.note("end", m)
}

func (s *sessions) EndUntilFresh(_ context.Context, m session.Match, e session.End, since time.Time) (int, error) {
	s.mu.Lock()
	s.last, s.since = e, since
	s.mu.Unlock()
	return s.note("fresh", m)
}

func (s *sessions) Reconsider(_ context.Context, m session.Match) (int, error) {
	return s.note("ask", m)
}

func (s *sessions) note(what string, m session.Match) (int, error) {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before != nil {
		before()
	}
	if err := m.Check(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return 0, s.fail
	}
	s.calls = append(s.calls, what+" "+text(m))
	return 1, nil
}

// text is a match in short.
func text(m session.Match) string {
	var parts []string
	for _, p := range []struct{ name, value string }{{"sub", m.Subject}, {"sid", m.SID}, {"email", m.Email}} {
		if p.value != "" {
			parts = append(parts, p.name+" "+p.value)
		}
	}
	if !m.ID.IsZero() {
		parts = append(parts, "id "+m.ID.String())
	}
	if m.Issuer != "" {
		parts = append(parts, "at "+m.Issuer)
	}
	return strings.Join(parts, " ")
}

// taken returns what was asked for since the last time.
func (s *sessions) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.calls
	s.calls = nil
	return list
}

func (s *sessions) set(fail error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

// counts counts outcomes.
type counts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counts) add(event string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[event]++
}

func (c *counts) of(event string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[event]
}

// all returns what was counted since the last time, in short.
func (c *counts) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for name, n := range c.n {
		list = append(list, fmt.Sprintf("%s:%d", name, n))
	}
	c.n = nil
	slices.Sort(list)
	return strings.Join(list, " ")
}

// clock is a wall clock that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// logs keeps what is logged, to see that there are no secrets in it.
type logs struct {
	t  testing.TB
	mu sync.Mutex
	b  strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const (
	us        = "curfew.example"
	pushToken = "push-token-0123456789-0123456789"
	pollToken = "poll-token-0123456789-0123456789"
	provider  = "https://idp.example"
)

// rig is a receiver, and all around it.
type rig struct {
	t        testing.TB
	server   *httptest.Server // the transmitter's
	mux      *http.ServeMux
	key      *jwt.Key
	metadata object
	sessions *sessions
	counts   *counts
	clock    *clock
	logs     *logs
	cfg      Transmitter
	n        int // SETs made
}

// newRig makes a transmitter that speaks of users of provider, too.
func newRig(t testing.TB) *rig {
	t.Helper()
	g := &rig{t: t, mux: http.NewServeMux(), key: aKey(t), sessions: &sessions{}, counts: &counts{}, clock: &clock{t: time.Now()}, logs: &logs{t: t}}
	g.server = httptest.NewUnstartedServer(g.mux)
	g.server.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(g.logs, nil), slog.LevelDebug)
	g.server.StartTLS()
	t.Cleanup(g.server.Close)
	g.metadata = object{"issuer": g.issuer(), "jwks_uri": g.server.URL + "/keys", "spec_version": "1_0"}
	g.mux.HandleFunc("GET /.well-known/ssf-configuration/tenant", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(g.metadata) })
	g.mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(jwt.Set(g.key)) })
	g.cfg = Transmitter{Name: "corp", Issuer: g.issuer(), Audience: us, Issuers: []string{g.issuer(), provider}, Tokens: []string{pushToken},
		CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.server.Certificate().Raw})}
	return g
}

// aKey is the same for all tests: to make one takes long.
func aKey(t testing.TB) *jwt.Key {
	keyOnce.Do(func() { keyMade = jwt.NewKey(t, "k") })
	return keyMade
}

var (
	keyOnce sync.Once
	keyMade *jwt.Key
)

func (g *rig) issuer() string { return g.server.URL + "/tenant" }

// config is what the package is made of.
func (g *rig) config() Config {
	return Config{Transmitters: []Transmitter{g.cfg}, Sessions: g.sessions, Log: slog.New(slog.NewTextHandler(g.logs, nil)), Count: g.counts.add, Now: g.clock.now}
}

func (g *rig) receiver(change ...func(*Transmitter)) *receiver {
	g.t.Helper()
	for _, f := range change {
		f(&g.cfg)
	}
	c := g.config()
	r, err := newReceiver(g.cfg, &c)
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

// claims are those of a good SET with one event, and a jti of its own.
func (g *rig) claims(event string, subject, payload object) object {
	g.n++
	c := object{"iss": g.issuer(), "aud": us, "iat": g.clock.now().Unix(), "jti": fmt.Sprintf("jti-%d", g.n), "events": object{event: payload}}
	if subject != nil {
		c["sub_id"] = subject
	}
	if payload == nil {
		c["events"] = object{event: object{}}
	}
	return c
}

func (g *rig) sign(claims object) string {
	g.t.Helper()
	return g.key.Sign(g.t, object{"alg": "RS256", "kid": "k", "typ": "secevent+jwt"}, encode(g.t, claims))
}

func encode(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// alice is a subject.
func alice() object { return object{"format": "iss_sub", "iss": provider, "sub": "alice"} }

const revoked = caepTypes + "session-revoked"

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
