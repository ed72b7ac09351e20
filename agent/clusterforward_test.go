// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/cluster"
	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/session"
)

// What another node passes on is served as if it had come here, if it is about a sign-in of this node; nothing else is.
func TestServeForwarded(t *testing.T) {
	n := &clusterNode{time: cluster.NewTimebase(session.Origin{Node: "here", Boot: 1}, hostclock.Clock{}, nil)}
	about := func(uri string) []byte {
		b, err := json.Marshal(forwarded{Method: "GET", Host: "agent.example", URI: uri, Source: "192.0.2.1:5", Header: http.Header{"Cookie": {"a=b"}}, Body: []byte("body")})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	mine := "/start/" + markOf("here") + ".secret"
	if _, err := n.serveForwarded(t.Context(), "there", about(mine)); err == nil {
		t.Error("served before anything is")
	}
	served := 0
	here := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served++
		body, _ := io.ReadAll(r.Body)
		if r.TLS == nil || r.RemoteAddr != "192.0.2.1:5" || r.Host != "agent.example" || r.Header.Get("Cookie") != "a=b" || string(body) != "body" || r.URL.Path != mine {
			t.Errorf("%+v, body %q", r, body)
		}
		w.Header().Set("Location", "https://idp")
		w.WriteHeader(http.StatusSeeOther)
	}))
	n.signIn.Store(&here)
	answer, err := n.serveForwarded(t.Context(), "there", about(mine))
	var a answered
	if err != nil || json.Unmarshal(answer, &a) != nil || a.Status != http.StatusSeeOther || a.Header.Get("Location") != "https://idp" {
		t.Errorf("%s, %v", answer, err)
	}
	for name, request := range map[string][]byte{
		"another node's": about("/start/" + markOf("there") + ".secret"), // or two nodes would pass it to and fro
		"nobody's":       about("/start/secret"),
		"the session":    about("/v1/session"),
		"no request":     []byte("{"),
		"no address":     about(":"),
		"a bad certificate": func() []byte {
			b, _ := json.Marshal(forwarded{Method: "GET", URI: mine, Certificate: []byte("x")}) // strings: never fails
			return b
		}(),
	} {
		if _, err := n.serveForwarded(t.Context(), "there", request); err == nil {
			t.Errorf("%s was served", name)
		}
	}
	if served != 1 {
		t.Errorf("served %d times", served)
	}
}

// What is too large to be a sign-in's is not passed on.
func TestForwardedBodyIsBounded(t *testing.T) {
	n := &clusterNode{}
	r := httptest.NewRequest("POST", "/v1/login/complete", strings.NewReader(strings.Repeat("x", maxForwardedBody+1)))
	if _, err := n.askToServe(r, "there"); err == nil {
		t.Error("passed on")
	}
}
