// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/client"
)

func (s *signInServer) postToken(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var req api.LoginToken
	if json.NewDecoder(r.Body).Decode(&req) != nil || len(r.TLS.PeerCertificates) == 0 || req.Token != s.token {
		w.WriteHeader(http.StatusForbidden)
		s.answer(w, api.Error{Code: api.CodeTokenRefused, Message: "the token was refused: has expired", Hint: "a fresh one"})
		return
	}
	s.session.ID, s.session.Method, s.session.State, s.session.Ended = session.NewID(), "token", api.StateLive, nil
	s.answer(w, s.session)
}

// tokenHome is where a machine keeps what it knows, with a good token in a file and in a variable.
func tokenHome(t *testing.T, s *signInServer) (host, file string) {
	t.Helper()
	home := t.TempDir()
	for _, env := range []string{"HOME", "XDG_CONFIG_HOME", "AppData"} {
		t.Setenv(env, home)
	}
	t.Setenv(agentEnv, "")
	s.token = "good.token.x"
	t.Setenv("CURFEW_TEST_TOKEN", s.token)
	file = filepath.Join(home, "token")
	writeToken(t, file, s.token)
	return strings.TrimPrefix(s.URL, "https://"), file
}

func writeToken(t *testing.T, file, token string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func TestMachinesCommands(t *testing.T) {
	s := newSignInServer(t)
	host, file := tokenHome(t, s)
	bad := file + ".bad"
	writeToken(t, bad, "bad.token.x")
	fp := client.FingerprintOf(s.Certificate()).String()
	for _, tc := range []struct {
		args     string
		code     int
		out, err string // what must be printed
	}{
		{"login " + host + " --fingerprint " + fp + " --token-file " + file, 0, "signed in as Alice", ""},
		{"login --token-env CURFEW_TEST_TOKEN -o json", 0, `"method": "token"`, ""},
		{"login --token-file " + bad, 1, "", "has expired"},
		{"login --token-file " + file + ".missing", 1, "", "no such file"},
		{"login --token-env CURFEW_TEST_NOTHING", 1, "", "is not set"},
		{"login --token-file x --token-env y", 2, "", "token-env"},
		{"login --token-file x --provider y", 2, "", "provider"},
		{"login --token-env x --watch", 2, "", "--watch needs --token-file"},
		{"login --machine x", 2, "", "--machine needs"},
		{"connect db --machine x", 2, "", "--machine needs"},
		{"connect db --token-file " + bad + " -- true", 1, "", "has expired"},
		{"connect db --token-file " + file + " -- true", 0, "", ""},
		{"connect db --token-file " + file + " -- false", 1, "", "status 1"},
		{"connect cache --token-file " + file + " -- true", 1, "", "you may use: db"},
		{"status", 0, "services: db", ""},
	} {
		var out, errOut bytes.Buffer
		code := run(strings.Fields(tc.args), &out, &errOut)
		if code != tc.code || !strings.Contains(out.String(), tc.out) || !strings.Contains(errOut.String(), tc.err) {
			t.Errorf("curfew %s: exit %d, want %d, %q, %q\n%s%s", tc.args, code, tc.code, tc.out, tc.err, &out, &errOut)
		}
		if strings.Contains(out.String()+errOut.String(), ".token.x") {
			t.Errorf("curfew %s prints the token", tc.args)
		}
	}
}

// lines is standard output as a program reads it.
type lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// A machine stays signed in while its token changes, and leaves when it is told to.
func TestLoginWatches(t *testing.T) {
	s := newSignInServer(t)
	host, file := tokenHome(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errOut lines
	a := &app{out: &out, err: &errOut}
	root := a.newRootCmd()
	root.SetArgs([]string{"login", host, "--accept-new", "-o", "json", "--watch", "--token-file", file})
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	wait := func(what string, cond func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not within 20 s: %s\n%s%s", what, &out, &errOut)
			}
		}
	}
	sessions := func() int { return strings.Count(out.String(), "\n") }
	wait("the first session", func() bool { return sessions() == 1 })
	writeToken(t, file, "another.token.x")
	wait("that it is refused", func() bool { return strings.Contains(errOut.String(), "has expired\nhint: a fresh one") })
	s.mu.Lock()
	s.token = "another.token.x"
	s.mu.Unlock()
	wait("the second session", func() bool { return sessions() == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("interrupted: %v", err)
	}
	for line := range strings.Lines(out.String()) {
		var sess api.Session
		if err := json.Unmarshal([]byte(line), &sess); err != nil || sess.Method != "token" {
			t.Errorf("%q: %v", line, err)
		}
	}
}
