// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/session"
)

const (
	anyToken   = "any-token-0123456789-0123456789-01"
	boundToken = "bound-token-0123456789-0123456789"
)

func withHooks(c *Config) {
	c.Webhooks = []Webhook{{Name: "any", Tokens: []string{anyToken}}, {Name: "bound", Tokens: []string{"old" + boundToken, boundToken}, Issuer: provider}}
}

func kill(h http.Handler, token, body string, headers ...string) *httptest.ResponseRecorder {
	return ask(h, "POST", "/v1/kill", body, append([]string{"Authorization", "Bearer " + token, "Content-Type", "application/json"}, headers...)...)
}

func TestWebhook(t *testing.T) {
	g := newRig(t)
	s := g.signals(withHooks)
	id := session.NewID()
	for _, tc := range []struct {
		name, token, body string
		want              string // what is done, or "!" and what is wrong
	}{
		{"subject", anyToken, `{"subject":"alice"}`, "end sub alice"},
		{"subject at an issuer", anyToken, `{"issuer":"https://x.example","subject":"alice","reason":"left"}`, "end sub alice at https://x.example"},
		{"address", anyToken, `{"email":"a@x.example"}`, "end email a@x.example"},
		{"session", anyToken, `{"session":"` + id.String() + `"}`, "end id " + id.String()},
		{"provider's session", anyToken, `{"issuer":"https://x.example","sid":"s1"}`, "end sid s1 at https://x.example"},
		{"bound, with the issuer", boundToken, `{"issuer":"` + provider + `","subject":"alice"}`, "end sub alice at " + provider},
		{"bound, without", boundToken, `{"subject":"alice"}`, "end sub alice at " + provider},
		{"bound, with the old token", "old" + boundToken, `{"sid":"s1"}`, "end sid s1 at " + provider},
		{"bound, another issuer", boundToken, `{"issuer":"https://x.example","subject":"alice"}`, "!may not speak of that issuer"},
		{"nobody", anyToken, `{}`, "!neither a subject nor"},
		{"everybody of an issuer", anyToken, `{"issuer":"https://x.example"}`, "!neither a subject nor"},
		{"everybody of the bound issuer", boundToken, `{}`, "!neither a subject nor"},
		{"a session of no provider", anyToken, `{"sid":"s1"}`, "!and no provider"},
		{"empty subject", anyToken, `{"subject":"","email":"a@x.example"}`, "!subject is empty"},
		{"null", anyToken, `{"subject":null,"email":"a@x.example"}`, "!subject is empty"},
		{"number", anyToken, `{"subject":1}`, "!not a string"},
		{"unknown member", anyToken, `{"subject":"alice","group":"dba"}`, `!member "group" is not known`},
		{"in capitals", anyToken, `{"Subject":"alice"}`, `!member "Subject" is not known`},
		{"twice", anyToken, `{"subject":"alice","subject":"bob"}`, "!same but for case"},
		{"in two cases", anyToken, `{"subject":"alice","SUBJECT":"bob"}`, "!same but for case"},
		{"control characters", anyToken, `{"subject":"a\u0000"}`, "!not printable"},
		{"long", anyToken, `{"subject":"` + strings.Repeat("a", 2000) + `"}`, "!too long"},
		{"part of a session", anyToken, `{"session":"` + id.Short() + `"}`, "!session id"},
		{"no session", anyToken, `{"session":"` + session.ID{}.String() + `"}`, "!neither a subject nor"},
		{"array", anyToken, `[{"subject":"alice"}]`, "!not a JSON object"},
		{"two objects", anyToken, `{"subject":"alice"}{}`, "!followed by more"},
		{"empty", anyToken, ``, "!not a JSON object"},
		{"huge", anyToken, `{"subject":"` + strings.Repeat("a", 1<<20) + `"}`, "!too big"},
		{"not UTF-8", anyToken, "{\"subject\":\"\xff\"}", "!UTF-8"},
	} {
		w := kill(s, tc.token, tc.body)
		did, counted := strings.Join(g.sessions.taken(), ", "), g.counts.all()
		if wrong, is := strings.CutPrefix(tc.want, "!"); is {
			if w.Code != http.StatusBadRequest || did != "" || counted != "webhook-refused:1" || !strings.Contains(strings.ReplaceAll(w.Body.String(), `\"`, `"`), wrong) {
				t.Errorf("%s: %d %s, did %q, counted %s; want %s", tc.name, w.Code, w.Body, did, counted, wrong)
			}
		} else if w.Code != http.StatusOK || did != tc.want || counted != "webhook-ended:1" || strings.TrimSpace(w.Body.String()) != `{"ended":1}` {
			t.Errorf("%s: %d %s, did %q, counted %s; want %s", tc.name, w.Code, w.Body, did, counted, tc.want)
		}
	}
	if logs := g.logs.String(); strings.Contains(logs, "-token-") || !strings.Contains(logs, "reason=left") {
		t.Errorf("the log:\n%s", logs)
	}
}

func TestWebhookTellsWhoAndWhy(t *testing.T) {
	g := newRig(t)
	kill(g.signals(withHooks), anyToken, `{"subject":"alice","reason":"Your contract has ended."}`)
	if want := (session.End{Reason: session.ReasonKilled, By: "webhook/any", Message: "Your contract has ended.", At: g.clock.now()}); g.sessions.last != want {
		t.Errorf("%+v", g.sessions.last)
	}
}

func TestWebhookRefusals(t *testing.T) {
	g := newRig(t)
	s := g.signals(withHooks)
	for name, w := range map[string]*httptest.ResponseRecorder{
		"no token":        ask(s, "POST", "/v1/kill", `{"subject":"alice"}`, "Content-Type", "application/json"),
		"wrong token":     kill(s, "x", `{"subject":"alice"}`),
		"a pusher's":      kill(s, pushToken, `{"subject":"alice"}`),
		"two tokens":      kill(s, anyToken, `{"subject":"alice"}`, "Authorization", "Bearer "+anyToken),
		"another scheme":  ask(s, "POST", "/v1/kill", `{"subject":"alice"}`, "Authorization", "Basic "+anyToken, "Content-Type", "application/json"),
		"no webhook here": kill(g.signals(), anyToken, `{"subject":"alice"}`),
	} {
		if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if n := g.counts.of(WebhookUnauthenticated); n != 6 || len(g.sessions.taken()) > 0 {
		t.Errorf("counted %d", n)
	}
	for method, want := range map[string]int{"GET": 405, "PUT": 405, "DELETE": 405} {
		if w := ask(s, method, "/v1/kill", ""); w.Code != want {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
	if w := ask(s, "POST", "/v1/kill", `subject=alice`, "Authorization", "Bearer "+anyToken, "Content-Type", "application/x-www-form-urlencoded"); w.Code != http.StatusBadRequest {
		t.Errorf("form: %d", w.Code)
	}
	g.sessions.set(errors.New("disk full"))
	if w := kill(s, anyToken, `{"subject":"alice"}`); w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "disk") || g.counts.of(WebhookFailed) != 1 {
		t.Errorf("sessions that cannot be ended: %d %s", w.Code, w.Body)
	}
	codes := map[int]int{}
	for range 100 {
		codes[kill(s, "x", "").Code]++
	}
	if codes[http.StatusTooManyRequests] < 30 || g.counts.of(WebhookLimited) != codes[http.StatusTooManyRequests] {
		t.Errorf("answers to a hundred wrong tokens: %v", codes)
	}
}

func TestConfigurationsOfNoUse(t *testing.T) {
	g := newRig(t)
	long := strings.Repeat("x", 40)
	transmitter := func(change func(*Transmitter)) func(*Config) {
		return func(c *Config) { change(&c.Transmitters[0]) }
	}
	hook := func(w ...Webhook) func(*Config) { return func(c *Config) { c.Webhooks = w } }
	for want, change := range map[string]func(*Config){
		"name":                       transmitter(func(t *Transmitter) { t.Name = "A/b" }),
		"issuer":                     transmitter(func(t *Transmitter) { t.Issuer = "http://idp.example" }),
		"issuers":                    transmitter(func(t *Transmitter) { t.Issuers = []string{""} }),
		"audience":                   transmitter(func(t *Transmitter) { t.Audience = "" }),
		"max_age":                    transmitter(func(t *Transmitter) { t.MaxAge = 8 * 24 * 3600e9 }),
		"jwks_uri":                   transmitter(func(t *Transmitter) { t.JWKSURI = "ftp://x" }),
		"algorithms":                 transmitter(func(t *Transmitter) { t.Algorithms = []string{"HS256"} }),
		"ca":                         transmitter(func(t *Transmitter) { t.CA = []byte("x") }),
		"credential_change":          transmitter(func(t *Transmitter) { t.CredentialChange = Ignores }),
		"device_compliance":          transmitter(func(t *Transmitter) { t.DeviceCompliance = Reconsiders }),
		"opaque":                     transmitter(func(t *Transmitter) { t.Opaque = IsSID }),
		"session_ids":                transmitter(func(t *Transmitter) { t.SessionIDs = MeansUser }),
		"tokens: events can":         transmitter(func(t *Transmitter) { t.Tokens = nil }),
		"tokens: one has 1 ":         transmitter(func(t *Transmitter) { t.Tokens = []string{"x"} }),
		"poll_url":                   transmitter(func(t *Transmitter) { t.PollURL = "x" }),
		"access: events":             transmitter(func(t *Transmitter) { t.PollURL = "https://x.example" }),
		"access: token: h":           transmitter(func(t *Transmitter) { t.Access.Token = "a b" }),
		"access: token: e":           transmitter(func(t *Transmitter) { t.Access = Access{Token: long, ClientID: "x"} }),
		"access: client_id":          transmitter(func(t *Transmitter) { t.Access = Access{ClientID: "x"} }),
		"token_endpoint":             transmitter(func(t *Transmitter) { t.Access = Access{ClientID: "x", ClientSecret: "y", TokenEndpoint: "z"} }),
		"a second one":               func(c *Config) { c.Transmitters = append(c.Transmitters, c.Transmitters[0]) },
		"webhook x: tokens: missing": hook(Webhook{Name: "x"}),
		"webhook : name":             hook(Webhook{Tokens: []string{long}}),
		"webhook x: tokens: one has": hook(Webhook{Name: "x", Tokens: []string{"short"}}),
		"webhook y: tokens: webhook x has the same": hook(Webhook{Name: "x", Tokens: []string{long}}, Webhook{Name: "y", Tokens: []string{"y" + long, long}}),
	} {
		c := g.config()
		c.Transmitters = slices.Clone(c.Transmitters)
		change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), long) {
			t.Errorf("%v; want it to name %s", err, want)
		}
	}
}
