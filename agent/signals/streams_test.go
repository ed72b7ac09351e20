// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// managed returns the streams of the rig's transmitter.
func (g *rig) managed() (*Signals, *Streams) {
	g.t.Helper()
	s := g.signals()
	streams, err := s.Streams("corp")
	if err != nil {
		g.t.Fatal(err)
	}
	return s, streams
}

var toPush = StreamRequest{Method: MethodPush, Endpoint: "https://agent.example/v1/signals/corp", Description: "curfew"}

// The life of a stream, as an operator sees it.
func TestStreamLife(t *testing.T) {
	g := newRig(t)
	m := g.manager()
	_, s := g.managed()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	meta, err := s.Metadata(ctx)
	must(err)
	if meta.SpecVersion != "1_0" || meta.Verification == "" {
		t.Errorf("%+v", meta)
	}
	made, err := s.Create(ctx, toPush)
	must(err)
	if made.ID != "stream-1" || made.Delivery.Method != MethodPush || made.Delivery.Authorization != "" || !slices.Equal(made.EventsDelivered, EventTypes()) {
		t.Errorf("made %+v", made)
	}
	if d := m.stream["delivery"].(object); d["authorization_header"] != "Bearer "+pushToken || d["endpoint_url"] != toPush.Endpoint || m.stream["description"] != "curfew" {
		t.Errorf("asked for %v", m.stream)
	}
	got, err := s.Get(ctx, made.ID)
	must(err)
	list, err := s.List(ctx)
	must(err)
	if got.ID != made.ID || len(list) != 1 || list[0].ID != made.ID || list[0].Delivery.Authorization != "" {
		t.Errorf("got %+v, listed %+v", got, list)
	}
	got, err = s.Update(ctx, made.ID, StreamRequest{Events: []string{revoked}})
	must(err)
	if !slices.Equal(got.EventsRequested, []string{revoked}) || got.Delivery.Endpoint != toPush.Endpoint {
		t.Errorf("updated %+v", got)
	}
	got, err = s.Replace(ctx, made.ID, StreamRequest{Method: MethodPoll})
	must(err)
	if got.Delivery.Method != MethodPoll || got.Delivery.Endpoint == "" || got.Description != "" || len(got.EventsRequested) != len(EventTypes()) {
		t.Errorf("replaced %+v", got)
	}
	now, err := s.SetStatus(ctx, made.ID, "paused", "maintenance")
	must(err)
	again, err := s.Status(ctx, made.ID)
	must(err)
	if now.Status != "paused" || again.Status != "paused" {
		t.Errorf("status %+v, then %+v", now, again)
	}
	must(s.AddSubject(ctx, made.ID, []byte(`{"format":"email","email":"a@x.example"}`)))
	must(s.RemoveSubject(ctx, made.ID, []byte(`{"format":"email","email":"a@x.example"}`)))
	if want := []string{`add {"email":"a@x.example","format":"email"}`, `remove {"email":"a@x.example","format":"email"}`}; !slices.Equal(m.subjects, want) {
		t.Errorf("subjects %q", m.subjects)
	}
	must(s.Delete(ctx, made.ID))
	if _, err := s.Get(ctx, made.ID); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("after it was deleted: %v", err)
	}
	if list, err := s.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("after it was deleted: %v, %v", list, err)
	}
}

func TestVerifyByPush(t *testing.T) {
	g := newRig(t)
	m := g.manager()
	handler, s := g.managed()
	m.push = handler
	if _, err := s.Create(t.Context(), toPush); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), "stream-1"); err != nil {
		t.Error(err)
	}
	if answers := m.answered(); !slices.Equal(answers, []string{"Accepted"}) || g.counts.of(EventVerification) != 1 || len(s.checks.waiting) != 0 {
		t.Errorf("answered %q", answers)
	}
}

func TestVerifyByPoll(t *testing.T) {
	g := newRig(t)
	m := g.manager()
	handler, s := g.managed()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = handler.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if _, err := s.Create(t.Context(), StreamRequest{Method: MethodPoll}); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), "stream-1"); err != nil {
		t.Error(err)
	}
	eventually(t, "it is acknowledged", func() bool { return m.out.left() == 0 })
}

// The event with the state of one request must be about its stream; and nobody waits for ever.
func TestVerifyInVain(t *testing.T) {
	g := newRig(t)
	m := g.manager()
	handler, s := g.managed()
	m.push = handler
	if _, err := s.Create(t.Context(), toPush); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		verify func(state string) []string
		answer string
	}{
		"another state": {func(string) []string {
			return []string{g.sign(g.claims(typeVerification, opaque("stream-1"), object{"state": "x"}))}
		}, codeState},
		"another stream": {func(state string) []string {
			return []string{g.sign(g.claims(typeVerification, opaque("stream-2"), object{"state": state}))}
		}, codeRequest},
		"no state": {func(string) []string {
			return []string{g.sign(g.claims(typeVerification, opaque("stream-1"), object{}))}
		}, "Accepted"},
		"nothing": {func(string) []string { return nil }, ""},
	} {
		m.verify = tc.verify
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := s.Verify(ctx, "stream-1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		if answers := strings.Join(m.answered(), ", "); (answers == "") != (tc.answer == "") || !strings.Contains(answers, tc.answer) || len(s.checks.waiting) != 0 {
			t.Errorf("%s: answered %s", name, answers)
		}
	}
}

// The event may come to another node of the cluster than the one that has asked for it.
func TestVerifyAtAnotherNode(t *testing.T) {
	g := newRig(t)
	one, another := g.receiver(), g.receiver()
	state, arrived, done := one.checks.begin("s")
	defer done()
	set := g.sign(g.claims(typeVerification, opaque("s"), object{"state": state}))
	if err := another.take(t.Context(), set, "test"); err != nil {
		t.Errorf("at another node: %v", err)
	}
	select {
	case <-arrived:
		t.Error("it has arrived here, too")
	default:
	}
	g.cfg.Tokens = []string{strings.Repeat("x", 40)}
	var refused *refusal
	if err := g.receiver().take(t.Context(), set, "test"); !errors.As(err, &refused) || refused.code != codeState {
		t.Errorf("at somebody else's: %v", err)
	}
}

// The transmitter may answer one request twice.
func TestVerifiedTwice(t *testing.T) {
	g := newRig(t)
	r := g.receiver()
	state, arrived, done := r.checks.begin("s")
	defer done()
	for range 2 {
		if err := r.take(t.Context(), g.sign(g.claims(typeVerification, opaque("s"), object{"state": state})), "test"); err != nil {
			t.Error(err)
		}
	}
	<-arrived
}

// A stream whose events would be refused is not kept.
func TestStreamsOfNoUse(t *testing.T) {
	g := newRig(t)
	m := g.manager()
	_, s := g.managed()
	for name, tc := range map[string]struct {
		alter   func(object)
		deleted int
	}{
		"another issuer":        {func(o object) { o["iss"] = provider }, 1}, // openid-ssf-receiver-stream-issuer-mismatch
		"no issuer":             {func(o object) { delete(o, "iss") }, 1},
		"another audience":      {func(o object) { o["aud"] = []string{"them"} }, 1},
		"several audiences":     {func(o object) { o["aud"] = []string{us, "them"} }, 1},
		"no audience":           {func(o object) { delete(o, "aud") }, 1},
		"another method":        {func(o object) { o["delivery"] = object{"method": MethodPoll} }, 1},
		"no stream_id":          {func(o object) { delete(o, "stream_id") }, 0},
		"stream_id with breaks": {func(o object) { o["stream_id"] = "a\nb" }, 0},
		"stream_id twice":       {func(o object) { o["Stream_ID"] = "x" }, 0},
	} {
		m.alter, m.deleted = tc.alter, 0
		m.called()
		made, err := s.Create(t.Context(), toPush)
		if err == nil || made.ID != "" || m.deleted != tc.deleted {
			t.Errorf("%s: %+v, %v; deleted %d", name, made, err, m.deleted)
		}
		if calls := m.called(); slices.Contains(calls, "POST verify") || slices.Contains(calls, "GET status") {
			t.Errorf("%s: it was used: %q", name, calls)
		}
	}
}

func TestStreamFaults(t *testing.T) {
	g := newRig(t)
	m := g.manager()
	_, s := g.managed()
	if _, err := s.Create(t.Context(), StreamRequest{Method: MethodPush, Endpoint: "http://agent.example/"}); err == nil {
		t.Error("pushes would come without TLS")
	}
	if _, err := s.Create(t.Context(), StreamRequest{Method: "smoke"}); err == nil {
		t.Error("by smoke signals")
	}
	if _, err := s.SetStatus(t.Context(), "stream-1", "asleep", ""); err == nil || len(m.called()) > 0 {
		t.Errorf("asleep: %v", err)
	}
	if err := s.AddSubject(t.Context(), "stream-1", []byte(`{"format":"phone_number","phone_number":"+1"}`)); err == nil || len(m.called()) > 0 {
		t.Errorf("a subject whose events could not be acted upon: %v", err)
	}
	delete(g.metadata, "status_endpoint")
	if _, err := s.Status(t.Context(), "stream-1"); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("no endpoint: %v", err)
	}
	secret := "do not tell"
	for name, fault := range map[string]http.HandlerFunc{
		"500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); _, _ = w.Write([]byte(secret)) },
		"403": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/keys", http.StatusTemporaryRedirect)
		},
		"huge":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 2<<20)) },
		"no JSON": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(secret)) },
		"pending": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202) },
		"cut off": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		g.mux.HandleFunc("/fault/"+strings.ReplaceAll(name, " ", "-"), fault)
		g.metadata["configuration_endpoint"] = g.server.URL + "/fault/" + strings.ReplaceAll(name, " ", "-")
		_, err := s.Get(t.Context(), "stream-1")
		if err == nil || strings.Contains(err.Error(), secret) || errors.Is(err, ErrPending) != (name == "pending") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A token that has expired is replaced, once.
func TestStreamsWithExpiringToken(t *testing.T) {
	g := newRig(t)
	m := g.manager()
	issued := g.issuing(600)
	_, s := g.managed()
	if _, err := s.List(t.Context()); err == nil || issued.Load() != 2 {
		t.Errorf("tokens that are never accepted: %v, %d issued", err, issued.Load())
	}
	if m.tokens[0] != "Bearer token1" || m.tokens[1] != "Bearer token2" || len(m.tokens) != 2 {
		t.Errorf("presented %q", m.tokens)
	}
}

func TestWellKnown(t *testing.T) {
	for issuer, want := range map[string]string{
		"https://tr.example":           "https://tr.example/.well-known/ssf-configuration",
		"https://tr.example/":          "https://tr.example/.well-known/ssf-configuration",
		"https://tr.example/a":         "https://tr.example/.well-known/ssf-configuration/a",
		"https://tr.example/a/b/":      "https://tr.example/.well-known/ssf-configuration/a/b",
		"https://tr.example:8443/a%2F": "https://tr.example:8443/.well-known/ssf-configuration/a%2F",
	} {
		if got, err := wellKnown(issuer); err != nil || got != want {
			t.Errorf("%s: %s, %v", issuer, got, err)
		}
	}
}
