// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/test/jwt"
)

func (g *rig) signals(change ...func(*Config)) *Signals {
	g.t.Helper()
	c := g.config()
	for _, f := range change {
		f(&c)
	}
	s, err := New(c)
	if err != nil {
		g.t.Fatal(err)
	}
	return s
}

// ask sends a request from an address of its own, over TLS. Headers are name, value, name, value.
func ask(h http.Handler, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.TLS = &tls.ConnectionState{}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "From-Address" {
			r.RemoteAddr = headers[i+1]
			continue
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// push delivers a SET as a transmitter does.
func push(h http.Handler, token string, headers ...string) *httptest.ResponseRecorder {
	return ask(h, "POST", "/v1/signals/corp", token, append([]string{"Authorization", "Bearer " + pushToken, "Content-Type", "application/secevent+jwt"}, headers...)...)
}

func TestPush(t *testing.T) {
	g := newRig(t)
	other := g.cfg
	other.Name, other.Tokens = "other", []string{strings.Repeat("o", 40)}
	poller := g.cfg
	poller.Name, poller.Tokens, poller.PollURL, poller.Access = "poller", nil, g.server.URL, Access{Token: pollToken}
	s := g.signals(func(c *Config) { c.Transmitters = append(c.Transmitters, other, poller) })
	set := func() string { return g.sign(g.claims(revoked, alice(), nil)) }
	const ct, secevent, auth, bearer = "Content-Type", "application/secevent+jwt", "Authorization", "Bearer " + pushToken
	for _, tc := range []struct {
		name, path, body string
		headers          []string
		status           int
		code, outcome    string
	}{
		{"good", "corp", set(), []string{ct, secevent, auth, bearer}, 202, "", EventEnded},
		{"scheme in capitals", "corp", set(), []string{ct, secevent, auth, "BEARER " + pushToken}, 202, "", EventEnded},
		{"charset", "corp", set(), []string{ct, secevent + "; charset=utf-8", auth, bearer}, 202, "", EventEnded},
		{"no token", "corp", set(), []string{ct, secevent}, 400, codeUnknown, EventUnauthenticated},
		{"empty token", "corp", set(), []string{ct, secevent, auth, "Bearer "}, 400, codeUnknown, EventUnauthenticated},
		{"wrong token", "corp", set(), []string{ct, secevent, auth, bearer + "x"}, 400, codeUnknown, EventUnauthenticated},
		{"part of the token", "corp", set(), []string{ct, secevent, auth, bearer[:len(bearer)-1]}, 400, codeUnknown, EventUnauthenticated},
		{"another scheme", "corp", set(), []string{ct, secevent, auth, "Basic " + pushToken}, 400, codeUnknown, EventUnauthenticated},
		{"two tokens", "corp", set(), []string{ct, secevent, auth, bearer, auth, bearer}, 400, codeUnknown, EventUnauthenticated},
		{"token in the query", "corp?access_token=" + pushToken, set(), []string{ct, secevent}, 400, codeUnknown, EventUnauthenticated},
		{"another transmitter's token", "corp", set(), []string{ct, secevent, auth, "Bearer " + other.Tokens[0]}, 400, codeDenied, EventUnauthenticated},
		{"JSON", "corp", set(), []string{ct, "application/json", auth, bearer}, 400, codeRequest, EventRefused},
		{"no type", "corp", set(), []string{auth, bearer}, 400, codeRequest, EventRefused},
		{"empty", "corp", "", []string{ct, secevent, auth, bearer}, 400, codeRequest, EventRefused},
		{"huge", "corp", strings.Repeat("a", 8<<20), []string{ct, secevent, auth, bearer}, 400, codeRequest, EventRefused},
		{"two SETs", "corp", set() + "\n" + set(), []string{ct, secevent, auth, bearer}, 400, codeRequest, EventRefused},
		{"nobody", "nobody", set(), []string{ct, secevent, auth, bearer}, 404, "", ""},
		{"one that is polled", "poller", set(), []string{ct, secevent, auth, bearer}, 404, "", ""},
	} {
		w := ask(s, "POST", "/v1/signals/"+tc.path, tc.body, tc.headers...)
		var answer refusalJSON
		if tc.code != "" && (json.Unmarshal(w.Body.Bytes(), &answer) != nil || answer.Err != tc.code || answer.Description == "" ||
			w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Content-Language") == "") {
			t.Errorf("%s: %s %v, want err %s", tc.name, w.Body, w.Header(), tc.code)
		}
		if counted := g.counts.all(); w.Code != tc.status || tc.outcome != "" && counted != tc.outcome+":1" || tc.status == 202 && w.Body.Len() != 0 {
			t.Errorf("%s: %d %s, counted %s; want %d, %s", tc.name, w.Code, w.Body, counted, tc.status, tc.outcome)
		}
	}
	if w := ask(s, "GET", "/v1/signals/corp", ""); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
	if logs := g.logs.String(); strings.Contains(logs, "push-token") || strings.Contains(logs, "eyJ") || strings.Contains(logs, "ooooo") {
		t.Errorf("a token is in the log:\n%s", logs)
	}
}

func TestPushWithoutTLS(t *testing.T) {
	g := newRig(t)
	r := httptest.NewRequest("POST", "/v1/signals/corp", strings.NewReader(g.sign(g.claims(revoked, alice(), nil))))
	r.Header.Set("Authorization", "Bearer "+pushToken)
	r.Header.Set("Content-Type", "application/secevent+jwt")
	w := httptest.NewRecorder()
	if g.signals().ServeHTTP(w, r); w.Code != http.StatusForbidden || len(g.sessions.taken()) > 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestPushErrorCodes(t *testing.T) {
	g := newRig(t)
	s := g.signals()
	change := func(name string, v any) string {
		c := g.claims(revoked, alice(), nil)
		c[name] = v
		return g.sign(c)
	}
	forged := jwt.NewKey(t, "k").Sign(t, object{"alg": "RS256", "kid": "k", "typ": "secevent+jwt"}, encode(t, g.claims(revoked, alice(), nil)))
	for code, token := range map[string]string{
		codeKey: forged, codeIssuer: change("iss", provider), codeAudience: change("aud", "them"), codeRequest: change("exp", 1),
		codeState: g.sign(g.claims(typeVerification, opaque("s"), object{"state": "x"})),
	} {
		w := push(s, token)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), `"err":"`+code+`"`) {
			t.Errorf("%s: %d %s", code, w.Code, w.Body)
		}
	}
}

// What is no fault of the event's is to be tried again, and says so.
func TestPushToBeTriedAgain(t *testing.T) {
	g := newRig(t)
	s := g.signals()
	token := g.sign(g.claims(revoked, alice(), nil))
	g.sessions.set(errors.New("disk full at /var/lib"))
	w := push(s, token)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "disk") {
		t.Errorf("sessions that cannot be ended: %d %s", w.Code, w.Body)
	}
	g.sessions.set(nil)
	if w := push(s, token); w.Code != http.StatusAccepted {
		t.Errorf("again: %d %s", w.Code, w.Body)
	}
	s.receivers["corp"].seen.max = 1
	if w := push(s, g.sign(g.claims(revoked, alice(), nil))); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("when full: %d %s", w.Code, w.Body)
	}
	g.server.Close()
	w = push(g.signals(), token)
	if w.Code != http.StatusServiceUnavailable || g.counts.of(EventUnavailable) != 1 {
		t.Errorf("without keys: %d %s", w.Code, w.Body)
	}
}

// The event is acknowledged when the sessions have ended, and not before.
func TestPushAnswersAfterTheEnd(t *testing.T) {
	g := newRig(t)
	s := g.signals()
	began, release, answered := make(chan struct{}), make(chan struct{}), make(chan *httptest.ResponseRecorder, 1)
	g.sessions.before = func() { close(began); <-release }
	go func() { answered <- push(s, g.sign(g.claims(revoked, alice(), nil))) }()
	<-began
	select {
	case w := <-answered:
		t.Errorf("answered %d before the sessions have ended", w.Code)
	default:
	}
	close(release)
	if w := <-answered; w.Code != http.StatusAccepted {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Who hangs up after having said it has said it all the same.
func TestHangUp(t *testing.T) {
	g := newRig(t)
	s := g.signals(withHooks, func(c *Config) {
		c.Provisioners = []Provisioner{{Name: "hr", Tokens: []string{scimToken}, Issuer: provider}}
	})
	push(s, g.sign(g.claims(typeVerification, nil, object{}))) // has the keys fetched
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct{ path, token, contentType, body string }{
		{"/v1/signals/corp", pushToken, "application/secevent+jwt", g.sign(g.claims(revoked, alice(), nil))},
		{"/v1/kill", anyToken, "application/json", `{"subject":"alice"}`},
		{"/scim/v2/hr/Users", scimToken, "application/scim+json", `{"userName":"a@x.example","active":false}`},
	} {
		hungUp := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.ServeHTTP(w, r.WithContext(gone)) })
		w := ask(hungUp, "POST", tc.path, tc.body, "Authorization", "Bearer "+tc.token, "Content-Type", tc.contentType)
		if did := g.sessions.taken(); len(did) != 1 {
			t.Errorf("%s: %d %s, did %q", tc.path, w.Code, w.Body, did)
		}
	}
}

// Strangers are limited by their address; a transmitter at the same address is not.
func TestPushLimit(t *testing.T) {
	g := newRig(t)
	s := g.signals()
	wrong := func(from string) int {
		return push(s, "x", "Authorization", "Bearer x", "From-Address", from).Code
	}
	for range 60 {
		if code := wrong("192.0.2.1:1"); code != http.StatusBadRequest {
			t.Fatal(code)
		}
	}
	if code := wrong("192.0.2.1:2"); code != http.StatusTooManyRequests || g.counts.of(EventLimited) != 1 {
		t.Errorf("the 61st: %d", code)
	}
	if code := wrong("192.0.2.2:1"); code != http.StatusBadRequest {
		t.Errorf("another address: %d", code)
	}
	if w := push(s, g.sign(g.claims(revoked, alice(), nil)), "From-Address", "192.0.2.1:3"); w.Code != http.StatusAccepted {
		t.Errorf("the transmitter, at the address of who is limited: %d", w.Code)
	}
}

func TestSecrets(t *testing.T) {
	s := secretsOf([]string{"old", "new", "new"})
	for token, want := range map[string]bool{"old": true, "new": true, "": false, "ol": false, "oldd": false, "New": false} {
		if s.accept(token) != want {
			t.Errorf("%q: %v", token, !want)
		}
	}
	if secretsOf(nil).accept("") || secretsOf([]string{""}).accept("") {
		t.Error("an empty token is accepted")
	}
	for _, bad := range []string{"short", strings.Repeat("a", 31), strings.Repeat("a", 40) + "\n", "with blanks, though it is quite long enough", ""} {
		if checkTokens([]string{bad}) == nil {
			t.Errorf("%q does as a token", bad)
		}
	}
}
