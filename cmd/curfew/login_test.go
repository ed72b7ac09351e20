// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/client"
)

// signInServer is an agent whose provider says yes to everybody at once.
type signInServer struct {
	*httptest.Server
	mu        sync.Mutex // guards the fields below
	login     api.LoginRequest
	services  []string // that were signed in for, one for each sign-in
	session   api.Session
	token     string        // of a machine that is let in
	loggedOut api.LoggedOut // what is said at a sign-out, but for the session
}

func newSignInServer(t *testing.T) *signInServer {
	t.Helper()
	s := &signInServer{loggedOut: api.LoggedOut{Revoked: true}, session: api.Session{ID: session.NewID(), State: api.StateLive, Left: api.Seconds(90 * time.Minute),
		Identity: session.Identity{Subject: "alice", Name: "Alice\x1b[31m"}}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathLogin, func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.login = api.LoginRequest{}
		_ = json.NewDecoder(r.Body).Decode(&s.login)
		s.services = append(s.services, s.login.Service)
		s.answer(w, api.LoginStarted{URL: s.URL + "/start/x", Provider: "corp", ExpiresIn: api.Seconds(time.Minute)})
	})
	mux.HandleFunc("GET /start/x", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		http.Redirect(w, r, s.login.Redirect+"?code=c&state="+s.login.State, http.StatusSeeOther)
	})
	mux.HandleFunc("POST "+api.PathLoginComplete, s.getSession)
	mux.HandleFunc("POST "+api.PathLoginDevice, func(w http.ResponseWriter, _ *http.Request) {
		s.answer(w, api.DeviceStarted{Provider: "corp", UserCode: "ABCD-EFGH", VerificationURI: "https://idp.example/enter", ExpiresIn: api.Seconds(time.Minute)})
	})
	mux.HandleFunc("POST "+api.PathDevicePoll, s.getSession)
	mux.HandleFunc("POST "+api.PathLoginToken, s.postToken)
	mux.HandleFunc("GET "+api.PathSession, s.getSession)
	mux.HandleFunc("GET "+api.PathServices, func(w http.ResponseWriter, _ *http.Request) {
		s.answer(w, []api.Service{{Name: "db"}, {Name: "vault", Missing: "amr lacks\x1b otp"}})
	})
	mux.HandleFunc("DELETE "+api.PathSession, func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.session.State, s.session.Ended = api.StateEnded, &session.End{Reason: session.ReasonLogout}
		s.loggedOut.Session = s.session
		s.answer(w, s.loggedOut)
	})
	s.Server = httptest.NewUnstartedServer(mux)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *signInServer) getSession(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(r.TLS.PeerCertificates) == 0 {
		w.WriteHeader(http.StatusUnauthorized)
		s.answer(w, api.Error{Code: api.CodeNoCertificate, Message: "no certificate"})
		return
	}
	s.answer(w, s.session)
}

func (s *signInServer) answer(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

// visitor is standard error as a user reads it, who opens the page that is shown there.
type visitor struct {
	bytes.Buffer
	visit func(url string)
}

var shownURL = regexp.MustCompile(`https://\S+/start/\S+`)

func (v *visitor) Write(p []byte) (int, error) {
	if url := shownURL.Find(p); url != nil {
		go v.visit(string(url))
	}
	return v.Buffer.Write(p)
}

func TestUsersCommands(t *testing.T) {
	s := newSignInServer(t)
	home := t.TempDir()
	for _, env := range []string{"HOME", "XDG_CONFIG_HOME", "AppData"} {
		t.Setenv(env, home)
	}
	t.Setenv(agentEnv, "")
	fp := client.FingerprintOf(s.Certificate()).String()
	host := strings.TrimPrefix(s.URL, "https://")
	visit := func(url string) {
		if resp, err := s.Client().Get(url); err == nil {
			_ = resp.Body.Close()
		}
	}
	for _, tc := range []struct {
		args     string
		code     int
		out, err string // what must be printed
	}{
		{"status", 1, "", "curfew login HOST"},
		{"connect db", 1, "", "curfew login HOST"},
		{"status --agent " + host, 1, "", "not known here"},
		{"login " + host, 1, "", "--fingerprint " + fp},
		{"login " + host + " --fingerprint nonsense", 2, "", "64 hexadecimal digits"},
		{"login a/b", 2, "", "HOST:PORT"},
		{"login --no-browser --fingerprint " + fp + " " + host, 0, "signed in as Alice\uFFFD[31m", "Open this in a browser"},
		{"status", 0, "services: db, vault (after curfew login --service vault)", ""},
		{"status -o json", 0, `"left_seconds": 5400`, ""},
		{"login --no-browser -o json", 0, `"subject": "alice"`, ""},
		{"connect vault -- true", 1, "", "curfew login --service vault"},
		{"login --service vault --no-browser", 0, "signed in as Alice", "vault asks for another sign-in: amr lacks otp"},
		{"login --service db --no-browser", 0, "signed in as Alice", ""},
		{"login --service cache", 1, "", "you may use: db, vault"},
		{"login --service db --device", 2, "", "none of the others can be"},
		{"login --device", 0, "signed in as Alice", "only if you yourself have just run curfew login"},
		{"login --device -o json", 0, `"subject": "alice"`, "ABCD-EFGH"},
		{"login --device --no-browser", 2, "", "none of the others can be"},
		{"login --device --token-file x", 2, "", "none of the others can be"},
		{"connect", 2, "", "accepts 1 arg"},
		{"connect db --stdio -- true", 2, "", "a command needs neither"},
		{"connect cache -- true", 1, "", "you may use: db"},
		{"logout", 0, "signed out", ""},
		{"status", 4, "", "you signed out"},
		{"connect db", 4, "", "you signed out"},
		{"status -o json", 4, `"reason": "logout"`, "hint: "},
	} {
		var out bytes.Buffer
		errOut := &visitor{visit: visit}
		code := run(strings.Fields(tc.args), &out, errOut)
		if code != tc.code || !strings.Contains(out.String(), tc.out) || !strings.Contains(errOut.String(), tc.err) {
			t.Errorf("curfew %s: exit %d, want %d, %q, %q\n%s%s", tc.args, code, tc.code, tc.out, tc.err, &out, errOut)
		}
		if strings.Contains(out.String()+errOut.String(), "\x1b") && !strings.Contains(tc.args, "json") {
			t.Errorf("curfew %s: an escape reached the terminal", tc.args)
		}
	}
	if got := strings.Join(s.services, " "); got != "  vault" {
		t.Errorf("services that were signed in for: %q", got)
	}
	if keys, _ := filepath.Glob(filepath.Join(home, "curfew", "*", client.KeyFile)); len(keys) != 0 {
		t.Errorf("keys after logout: %v", keys)
	}
	if _, err := os.Stat(filepath.Join(home, "curfew")); err != nil {
		t.Errorf("the store is not where it should be: %v", err)
	}
}
