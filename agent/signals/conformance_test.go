// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/test/jwt"
)

// suite is what a module of the OpenID conformance suite sets up: a transmitter, and a receiver that has made a stream.
type suite struct {
	*rig
	m       *manager
	streams *Streams
	method  string
}

const verified = "stream-1"

func newSuite(t *testing.T, method string) *suite {
	g := newRig(t)
	m := g.manager()
	handler, streams := g.managed()
	m.push = handler
	handler.receivers["corp"].quiet = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = handler.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return &suite{g, m, streams, method}
}

func (s *suite) create() {
	s.t.Helper()
	q := toPush
	if q.Method = s.method; q.Method == MethodPoll {
		q.Endpoint = ""
	}
	if _, err := s.streams.Create(s.t.Context(), q); err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) verify() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	if err := s.streams.Verify(ctx, verified); err != nil {
		s.t.Fatal(err)
	}
	s.m.answered()
}

func (s *suite) delete() {
	s.t.Helper()
	if err := s.streams.Delete(s.t.Context(), verified); err != nil {
		s.t.Fatal(err)
	}
}

// deliver sends events, and returns what each was answered with: "ack" or the code of the refusal.
func (s *suite) deliver(tokens ...string) []string {
	s.t.Helper()
	var answers []string
	for _, token := range tokens {
		s.m.mu.Lock()
		s.m.send(token)
		s.m.mu.Unlock()
		answers = append(answers, s.answer(token))
	}
	return answers
}

func (s *suite) answer(token string) string {
	if s.method == MethodPush {
		answer := strings.Join(s.m.answered(), "; ")
		var refused refusalJSON
		if _, body, found := strings.Cut(answer, "{"); found && json.Unmarshal([]byte("{"+body), &refused) == nil {
			return refused.Err
		}
		return map[string]string{"Accepted": "ack"}[answer]
	}
	c, err := jose.Unverified(token)
	if err != nil {
		s.t.Fatal(err)
	}
	jti, _ := c.Text("jti")
	eventually(s.t, jti+" is answered", func() bool { return s.m.out.left() == 0 })
	acked, errs := s.m.out.told()
	if refused, is := errs[jti]; is {
		return refused.Err
	}
	if slices.Contains(acked, jti) {
		return "ack"
	}
	return ""
}

func (s *suite) want(what string, got []string, want ...string) {
	s.t.Helper()
	if !slices.Equal(got, want) {
		s.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// The receiver's modules of the OpenID conformance suite, by their names there: what each has a receiver do is done here,
// with both methods of delivery. This is not a run of the suite.
func TestConformanceModules(t *testing.T) {
	for name, run := range map[string]func(*suite){
		"openid-ssf-receiver-happypath":                           (*suite).happyPath,
		"openid-ssf-receiver-stream-create-delete":                (*suite).createDelete,
		"openid-ssf-receiver-stream-status-update":                (*suite).statusUpdate,
		"openid-ssf-receiver-stream-verification":                 (*suite).verification,
		"openid-ssf-receiver-unsolicited-stream-verification":     (*suite).unsolicited,
		"openid-ssf-receiver-stream-supported-events":             (*suite).supportedEvents,
		"openid-ssf-receiver-stream-caep-interop":                 (*suite).caepInterop,
		"openid-ssf-receiver-invalid-set-rejection":               (*suite).invalidSETs,
		"openid-ssf-receiver-verification-wrong-state":            (*suite).wrongState,
		"openid-ssf-receiver-verification-wrong-subject":          (*suite).wrongSubject,
		"openid-ssf-receiver-stream-issuer-mismatch":              (*suite).issuerMismatch,
		"openid-ssf-receiver-transmitter-initiated-status-change": (*suite).statusChange,
		"openid-ssf-receiver-verification-behind-queued-events":   (*suite).behindQueue,
		"openid-ssf-receiver-redelivered-set":                     (*suite).redelivered,
		"openid-ssf-receiver-removed-subject-event":               (*suite).removedSubject,
		"openid-ssf-receiver-access-token-expiry":                 (*suite).tokenExpiry,
	} {
		for method, short := range map[string]string{MethodPush: "push", MethodPoll: "poll"} {
			t.Run(name+"/"+short, func(t *testing.T) { run(newSuite(t, method)) })
		}
	}
}

func (s *suite) happyPath() {
	s.create()
	if _, err := s.streams.Get(s.t.Context(), verified); err != nil {
		s.t.Error(err)
	}
	if _, err := s.streams.Update(s.t.Context(), verified, StreamRequest{Events: []string{revoked}}); err != nil {
		s.t.Error(err)
	}
	if _, err := s.streams.Replace(s.t.Context(), verified, StreamRequest{Method: s.method, Endpoint: toPush.Endpoint}); err != nil {
		s.t.Error(err)
	}
	s.delete()
	s.want("calls", s.m.called(), "POST stream", "GET stream", "PATCH stream", "PUT stream", "DELETE stream")
}

func (s *suite) createDelete() {
	s.create()
	s.delete()
	s.want("calls", s.m.called(), "POST stream", "DELETE stream")
}

func (s *suite) statusUpdate() {
	s.create()
	if now, err := s.streams.SetStatus(s.t.Context(), verified, "paused", ""); err != nil || now.Status != "paused" {
		s.t.Errorf("%+v, %v", now, err)
	}
	s.delete()
}

func (s *suite) verification() {
	s.create()
	s.verify()
	s.delete()
}

func (s *suite) unsolicited() {
	s.create()
	s.want("answer", s.deliver(s.sign(s.claims(typeVerification, opaque(verified), object{}))), "ack")
	s.delete()
}

// supportedEvents sends all standard events, those that do nothing included.
func (s *suite) supportedEvents() {
	s.create()
	types := EventTypes()
	for _, name := range []string{"session-established", "session-presented", "risk-level-change"} {
		types = append(types, caepTypes+name)
	}
	for _, name := range []string{"account-enabled", "identifier-changed", "identifier-recycled", "opt-in", "opt-out-initiated", "opt-out-cancelled",
		"opt-out-effective", "recovery-activated", "recovery-information-changed"} {
		types = append(types, riscTypes+name)
	}
	for _, name := range types {
		s.want(name, s.deliver(s.sign(s.claims(name, alice(), object{"event_timestamp": s.clock.now().Unix()}))), "ack")
	}
	s.delete()
}

// caepInterop sends all values of what has several, with all formats of subjects of the CAEP Interoperability Profile 1.0.
func (s *suite) caepInterop() {
	s.create()
	if _, err := s.streams.Get(s.t.Context(), verified); err != nil {
		s.t.Error(err)
	}
	if _, err := s.streams.Status(s.t.Context(), verified); err != nil {
		s.t.Error(err)
	}
	s.verify()
	reason := object{"en": "Landspeed Policy Violation: C076E82F"}
	for _, subject := range []object{alice(), email("alice@x.example"), {"format": "complex", "user": alice(), "tenant": opaque("t")}} {
		payloads := []object{{"event": revoked}}
		for _, change := range []string{"create", "revoke", "update", "delete"} {
			payloads = append(payloads, object{"event": caepTypes + "credential-change", "change_type": change, "credential_type": "password"})
		}
		for _, status := range []string{"compliant", "not-compliant"} {
			payloads = append(payloads, object{"event": caepTypes + "device-compliance-change", "current_status": status})
		}
		for _, payload := range payloads {
			payload["reason_admin"] = reason
			s.want(fmt.Sprint(payload), s.deliver(s.sign(s.claims(payload["event"].(string), subject, payload))), "ack")
		}
	}
	s.delete()
}

// invalidSETs sends what must be refused, with the code that says why.
func (s *suite) invalidSETs() {
	s.create()
	s.verify()
	good := func() object { return s.claims(revoked, alice(), nil) }
	tampered := s.sign(good())
	changed := good()
	changed["iss"] = provider
	foreign := good()
	foreign["aud"] = "them"
	stranger := jwt.NewKey(s.t, "unknown")
	s.want("answers", s.deliver(tampered[:len(tampered)-4]+"AAAA", s.sign(changed), s.sign(foreign),
		stranger.Sign(s.t, object{"alg": "RS256", "kid": "unknown", "typ": "secevent+jwt"}, encode(s.t, good()))),
		codeKey, codeIssuer, codeAudience, codeKey)
	s.want("sessions", s.sessions.taken())
	s.delete()
}

func (s *suite) wrongState() {
	s.create()
	s.want("answer", s.deliver(s.sign(s.claims(typeVerification, opaque(verified), object{"state": "VGhpcyBpcyBhbiBleGFtcGxl"}))), codeState)
	s.verify()
	s.delete()
}

// wrongSubject answers a request with the event of another stream, and only then with the right one.
func (s *suite) wrongSubject() {
	s.create()
	state, arrived, done := s.streams.checks.begin(verified)
	defer done()
	s.want("answer", s.deliver(s.sign(s.claims(typeVerification, opaque("stream-2"), object{"state": state}))), codeRequest)
	s.want("answer", s.deliver(s.sign(s.claims(typeVerification, opaque(verified), object{"state": state}))), "ack")
	select {
	case <-arrived:
	default:
		s.t.Error("it has not arrived")
	}
	s.delete()
}

func (s *suite) issuerMismatch() {
	s.m.alter = func(o object) { o["iss"] = s.issuer() + "/not-this-transmitter" }
	if _, err := s.streams.Create(s.t.Context(), StreamRequest{Method: s.method, Endpoint: toPush.Endpoint}); err == nil {
		s.t.Error("the stream is used")
	}
	s.want("calls", s.m.called(), "POST stream", "DELETE stream")
}

func (s *suite) statusChange() {
	s.create()
	s.verify()
	updated := func(status string) string {
		return s.sign(s.claims(typeStreamUpdated, opaque(verified), object{"status": status, "reason": "Transmitter maintenance"}))
	}
	s.want("answers", s.deliver(updated("paused"), updated("enabled"), s.sign(s.claims(revoked, alice(), nil))), "ack", "ack", "ack")
	s.want("sessions", s.sessions.taken(), endAlice)
	s.delete()
}

func (s *suite) behindQueue() {
	s.create()
	one := s.m.verify
	s.m.verify = func(state string) []string {
		var list []string
		for range 3 {
			list = append(list, s.sign(s.claims(revoked, alice(), nil)))
		}
		return append(list, one(state)...)
	}
	s.verify()
	eventually(s.t, "all are done", func() bool { return s.counts.of(EventEnded) == 3 })
	s.delete()
}

func (s *suite) redelivered() {
	s.create()
	s.verify()
	token := s.sign(s.claims(revoked, alice(), nil))
	s.want("answers", s.deliver(token, token), "ack", "ack")
	s.want("sessions", s.sessions.taken(), endAlice)
	s.delete()
}

func (s *suite) removedSubject() {
	s.create()
	s.verify()
	if err := s.streams.RemoveSubject(s.t.Context(), verified, []byte(encode(s.t, alice()))); err != nil {
		s.t.Error(err)
	}
	s.want("answer", s.deliver(s.sign(s.claims(revoked, alice(), nil))), "ack")
	s.delete()
}

// tokenExpiry has an authorization server whose first token expires while it is in use. With poll, TestPollWithExpiringToken
// has the rest.
func (s *suite) tokenExpiry() {
	var issued, calls atomic.Int32
	s.mux.HandleFunc("POST /expiring", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":20}`, issued.Add(1))
	})
	s.mux.HandleFunc("/guarded", func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 2 || r.Header.Get("Authorization") != fmt.Sprint("Bearer t", issued.Load()) {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.Header.Set("Authorization", "Bearer "+pollToken)
		s.m.serve(w, r, "stream")
	})
	s.metadata["configuration_endpoint"] = s.server.URL + "/guarded"
	s.cfg.Access = Access{TokenEndpoint: s.server.URL + "/expiring", ClientID: "us", ClientSecret: "secret"}
	_, s.streams = s.managed()
	s.create()
	s.delete() // refused, and then not
	if n := issued.Load(); n != 2 {
		s.t.Errorf("%d tokens were issued", n)
	}
}
