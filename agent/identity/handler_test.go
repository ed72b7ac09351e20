// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/test/jwt"
)

// ask sends one request as it is, with a client key if keyed.
func ask(t *testing.T, a *agent, keyed bool, method, path, contentType, body string, header ...string) (*http.Response, string) {
	t.Helper()
	cfg := &tls.Config{RootCAs: a.roots}
	if keyed {
		cfg.Certificates = newCaller(t, a).http.Transport.(*http.Transport).TLSClientConfig.Certificates
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+a.addr.String()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestAPIRefuses(t *testing.T) {
	a := listen(t)
	a.serve(t)
	const json = "application/json"
	for _, tc := range []struct {
		name         string
		keyed        bool
		method, path string
		contentType  string
		body         string
		header       []string
		status       int
		code         string
	}{
		{"no certificate", false, "POST", api.PathLogin, json, "{}", nil, 401, api.CodeNoCertificate},
		{"no certificate for the session", false, "GET", api.PathSession, "", "", nil, 401, api.CodeNoCertificate},
		{"unknown key", true, "GET", api.PathSession, "", "", nil, 404, api.CodeUnknownKey},
		{"unknown key signs out", true, "DELETE", api.PathSession, "", "", nil, 404, api.CodeUnknownKey},
		{"unknown key wants services", true, "GET", api.PathServices, "", "", nil, 404, api.CodeUnknownKey},
		{"method", true, "PUT", api.PathSession, "", "", nil, 405, api.CodeMethod},
		{"method of login", true, "GET", api.PathLogin, "", "", nil, 405, api.CodeMethod},
		{"path", true, "GET", "/v1/nothing", "", "", nil, 404, api.CodeNotFound},
		{"form", true, "POST", api.PathLogin, "application/x-www-form-urlencoded", "a=b", nil, 415, api.CodeUnsupportedType},
		{"no JSON", true, "POST", api.PathLogin, json, "{", nil, 400, api.CodeBadRequest},
		{"unknown field", true, "POST", api.PathLogin, json, `{"x":1}`, nil, 400, api.CodeBadRequest},
		{"two values", true, "POST", api.PathLogin, json, `{}{}`, nil, 400, api.CodeBadRequest},
		{"huge body", true, "POST", api.PathLogin, json, `{"state":"` + strings.Repeat("a", 1<<20) + `"}`, nil, 400, api.CodeBadRequest},
		{"no state", true, "POST", api.PathLogin, json, `{"redirect":"http://127.0.0.1:1/"}`, nil, 400, api.CodeBadRequest},
		{"no provider", true, "POST", api.PathLogin, json, `{"redirect":"http://127.0.0.1:1/","state":"12345678"}`, nil, 503, api.CodeUnavailable},
		{"another site's page", true, "POST", api.PathLogin, json, "{}", []string{"Origin", "https://evil.example"}, 403, api.CodeForbidden},
		{"made-up code", true, "POST", api.PathLoginComplete, json, `{"code":"x"}`, nil, 403, api.CodeLoginInvalid},
		{"no certificate for a device", false, "POST", api.PathLoginDevice, json, "{}", nil, 401, api.CodeNoCertificate},
		{"no certificate for a poll", false, "POST", api.PathDevicePoll, json, "{}", nil, 401, api.CodeNoCertificate},
		{"device without a provider", true, "POST", api.PathLoginDevice, json, "{}", nil, 503, api.CodeUnavailable},
		{"made-up handle", true, "POST", api.PathDevicePoll, json, `{"login":"x"}`, nil, 403, api.CodeLoginInvalid},
		{"no certificate with a token", false, "POST", api.PathLoginToken, json, `{"token":"x"}`, nil, 401, api.CodeNoCertificate},
		{"method of a token", true, "GET", api.PathLoginToken, "", "", nil, 405, api.CodeMethod},
		{"form with a token", true, "POST", api.PathLoginToken, "application/x-www-form-urlencoded", "token=x", nil, 415, api.CodeUnsupportedType},
		{"no token", true, "POST", api.PathLoginToken, json, `{}`, nil, 403, api.CodeTokenRefused},
		{"unknown field beside a token", true, "POST", api.PathLoginToken, json, `{"token":"x","x":1}`, nil, 400, api.CodeBadRequest},
		{"8 MiB token", true, "POST", api.PathLoginToken, json, `{"token":"` + strings.Repeat("a", 8<<20) + `"}`, nil, 400, api.CodeBadRequest},
		{"token of nobody", true, "POST", api.PathLoginToken, json, `{"token":"e30.e30.AAAA"}`, nil, 400, api.CodeChooseMachine},
		{"empty code", true, "POST", api.PathLoginComplete, json, `{"code":""}`, nil, 403, api.CodeLoginInvalid},
	} {
		resp, body := ask(t, a, tc.keyed, tc.method, tc.path, tc.contentType, tc.body, tc.header...)
		if resp.StatusCode != tc.status || !strings.Contains(body, `"error":"`+tc.code+`"`) {
			t.Errorf("%s: %d %s; want %d %s", tc.name, resp.StatusCode, body, tc.status, tc.code)
		}
		for _, h := range []string{"Cache-Control", "Content-Security-Policy", "Referrer-Policy", "X-Content-Type-Options"} {
			if resp.Header.Get(h) == "" {
				t.Errorf("%s: no header %s", tc.name, h)
			}
		}
	}
}

func TestPages(t *testing.T) {
	a := listen(t)
	a.serve(t)
	for _, path := range []string{"/", "/start/nonsense", "/callback", "/callback/corp?state=x&code=<script>", "/callback?state=x&error=<script>"} {
		resp, body := ask(t, a, false, "GET", path, "", "")
		if resp.StatusCode < 400 || !strings.Contains(body, "curfew login") || strings.Contains(body, "<script>") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q", path, csp)
		}
		if resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("%s: sets a cookie", path)
		}
	}
}

func TestInfoNeedsNoCertificate(t *testing.T) {
	a := listen(t)
	a.serve(t, a.config("corp", "http://127.0.0.1:"+freePort(t)))
	info, err := a.connect(t).Info(t.Context())
	if err != nil || info.Name != "test" || len(info.Providers) != 1 || info.Providers[0].Name != "corp" || info.Providers[0].Ready {
		t.Errorf("info = %+v, %v", info, err)
	}
}

// TestEndedSessionSaysWhy: a client whose connection was reset asks why.
func TestEndedSessionSaysWhy(t *testing.T) {
	a := listen(t)
	a.serve(t)
	c := newCaller(t, a)
	s, err := a.table.Create(t.Context(), identity.NewSession{Key: c.key.ID()})
	if err != nil {
		t.Fatal(err)
	}
	end := session.End{Reason: session.ReasonKilled, By: "root@control", Message: "laptop stolen"}
	if err := a.table.End(context.Background(), s.ID, end); err != nil {
		t.Fatal(err)
	}
	var got api.Session
	if status, code := c.call("GET", api.PathSession, nil, &got); status != 200 || got.State != api.StateEnded || got.Ended == nil || got.Ended.Message != "laptop stolen" || got.Left != 0 {
		t.Errorf("session: %d %s %+v", status, code, got)
	}
	if status, code := c.call("GET", api.PathServices, nil, nil); status != 403 || code != api.CodeSessionEnded {
		t.Errorf("services: %d %s", status, code)
	}
}

func TestHandlerRefusesPlainHTTP(t *testing.T) {
	a := listen(t)
	a.serve(t)
	h := identity.NewHandler(identity.HandlerConfig{Logins: a.logins, Services: services{}, Clock: clock{}})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://agent"+api.PathInfo, nil))
	if w.Code != http.StatusForbidden {
		t.Errorf("info without TLS: %d", w.Code)
	}
}

// TestMachineSignsIn goes the whole way of a machine's token, over TLS with the client's key.
func TestMachineSignsIn(t *testing.T) {
	a := listen(t)
	key := jwt.NewKey(t, "k")
	a.machines = []identity.MachineConfig{{Name: "ci", Issuer: "https://ci.example", Audience: "curfew", Subjects: []string{"job:*"}, MaxAge: time.Minute,
		GroupsClaim: "groups", JWKS: jwt.Set(key)}}
	a.serve(t)
	now := time.Now().Unix()
	token := key.Sign(t, map[string]any{"alg": "RS256"},
		fmt.Sprintf(`{"iss":"https://ci.example","aud":"curfew","sub":"job:7","iat":%d,"exp":%d,"groups":["dba"]}`, now, now+60))
	c := newCaller(t, a)
	var made, seen api.Session
	if status, code := c.call("POST", api.PathLoginToken, api.LoginToken{Token: token}, &made); status != http.StatusCreated || made.Method != "token" || made.Identity.Subject != "job:7" {
		t.Fatalf("sign-in: %d %s %+v", status, code, made)
	}
	if status, code := c.call("GET", api.PathSession, nil, &seen); status != http.StatusOK || seen.ID != made.ID {
		t.Errorf("session: %d %s %+v", status, code, seen)
	}
	var list []api.Service
	if _, code := c.call("GET", api.PathServices, nil, &list); code != "" || len(list) != 1 || list[0].Name != "db" {
		t.Errorf("services: %s %v", code, list)
	}
	var out api.LoggedOut
	if _, code := c.call("DELETE", api.PathSession, nil, &out); code != "" || out.Session.Ended == nil || !out.Revoked {
		t.Errorf("sign-out: %s %+v", code, out)
	}
	if status, code := c.call("POST", api.PathLoginToken, api.LoginToken{Token: token}, nil); status != http.StatusForbidden || code != api.CodeTokenUsed {
		t.Errorf("the token after the sign-out: %d %s", status, code)
	}
	if a.counted(identity.EventMachineCompleted) != 1 || a.counted(identity.EventMachineReplayed) != 1 {
		t.Errorf("counts %v", a.counts)
	}
}
