// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/jwt"
	"github.com/curfew-proxy/curfew/test/peers"
)

// transmitter is one of security events that has one stream, and pushes its verification.
type transmitter struct {
	*httptest.Server
	key *jwt.Key

	mu       sync.Mutex
	stream   map[string]any
	endpoint string
	header   string // Authorization, of pushes
	status   string
	subjects []string
}

func newTransmitter(t *testing.T) *transmitter {
	t.Helper()
	tr := &transmitter{key: jwt.NewKey(t, "k"), status: "enabled"}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/ssf-configuration", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{"spec_version": "1_0", "issuer": tr.URL, "jwks_uri": tr.URL + "/keys", "configuration_endpoint": tr.URL + "/stream",
			"status_endpoint": tr.URL + "/status", "verification_endpoint": tr.URL + "/verify", "delivery_methods_supported": []string{"urn:ietf:rfc:8935"},
			"add_subject_endpoint": tr.URL + "/add", "remove_subject_endpoint": tr.URL + "/remove", "default_subjects": "NONE"})
	})
	mux.HandleFunc("GET /keys", jwt.Serve(tr.key))
	mux.HandleFunc("POST /stream", tr.create)
	mux.HandleFunc("PUT /stream", tr.create)
	mux.HandleFunc("POST /add", tr.subject)
	mux.HandleFunc("POST /remove", tr.subject)
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		switch {
		case r.FormValue("stream_id") != "":
			reply(w, http.StatusOK, tr.stream)
		case tr.stream == nil:
			reply(w, http.StatusOK, []any{})
		default:
			reply(w, http.StatusOK, []any{tr.stream})
		}
	})
	mux.HandleFunc("DELETE /stream", func(w http.ResponseWriter, _ *http.Request) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.stream = nil
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/status", func(w http.ResponseWriter, r *http.Request) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		var asked struct{ Status string }
		if r.Method == http.MethodPost && json.NewDecoder(r.Body).Decode(&asked) == nil {
			tr.status = asked.Status
		}
		reply(w, http.StatusOK, map[string]any{"stream_id": "stream-1", "status": tr.status})
	})
	mux.HandleFunc("POST /verify", func(w http.ResponseWriter, r *http.Request) { tr.verify(t, w, r) })
	tr.Server = httptest.NewServer(mux)
	t.Cleanup(tr.Close)
	return tr
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who asked may be gone
}

func (tr *transmitter) create(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Delivery struct {
			Method   string `json:"method"`
			Endpoint string `json:"endpoint_url"`
			Header   string `json:"authorization_header"`
		} `json:"delivery"`
		Events []string `json:"events_requested"`
	}
	if r.Header.Get("Authorization") != "Bearer access" || json.NewDecoder(r.Body).Decode(&asked) != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.endpoint, tr.header = asked.Delivery.Endpoint, asked.Delivery.Header
	tr.stream = map[string]any{"stream_id": "stream-1", "iss": tr.URL, "aud": "curfew", "events_requested": asked.Events, "events_delivered": asked.Events,
		"delivery": map[string]any{"method": asked.Delivery.Method, "endpoint_url": asked.Delivery.Endpoint}}
	reply(w, map[string]int{http.MethodPost: http.StatusCreated, http.MethodPut: http.StatusOK}[r.Method], tr.stream)
}

// subject notes who is added or removed.
func (tr *transmitter) subject(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Subject map[string]string `json:"subject"`
	}
	_ = json.NewDecoder(r.Body).Decode(&asked) // what is missing is not noted
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.subjects = append(tr.subjects, r.URL.Path+" "+asked.Subject["email"]+asked.Subject["sub"])
	w.WriteHeader(http.StatusNoContent)
}

// verify pushes the verification event before it answers.
func (tr *transmitter) verify(t *testing.T, w http.ResponseWriter, r *http.Request) {
	var asked struct{ State string }
	_ = json.NewDecoder(r.Body).Decode(&asked) // what is missing is not verified
	tr.mu.Lock()
	endpoint, header := tr.endpoint, tr.header
	tr.mu.Unlock()
	claims, _ := json.Marshal(map[string]any{"iss": tr.URL, "aud": "curfew", "iat": time.Now().Unix(), "jti": asked.State, // strings and numbers: never fails
		"sub_id": map[string]any{"format": "opaque", "id": "stream-1"},
		"events": map[string]any{"https://schemas.openid.net/secevent/ssf/event-type/verification": map[string]any{"state": asked.State}}})
	set := tr.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k", "typ": "secevent+jwt"}, string(claims))
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, endpoint, strings.NewReader(set))
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	req.Header.Set("Content-Type", "application/secevent+jwt")
	req.Header.Set("Authorization", header)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}} // self-made
	resp, err := client.Do(req)
	if err != nil || resp.StatusCode != http.StatusAccepted {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	_ = resp.Body.Close()
	w.WriteHeader(http.StatusNoContent)
}

// An operator sets a stream up by command, sees an event come the whole way, and ends it.
func TestStreams(t *testing.T) {
	tr, dir := newTransmitter(t), t.TempDir()
	for name, text := range map[string]string{"token": strings.Repeat("t0ken-", 8), "access": "access"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := startEcho(t)
	agent := harness.Start(t, harness.Config{
		Services: service("echo", fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t)), e.addr, ""),
		Extra: fmt.Sprintf(`providers: [{name: corp, issuer: '%[2]s', client_id: curfew}]
signals: [{name: idp, issuer: '%[2]s', audience: curfew, token_file: %[1]s/token, access_token_file: %[1]s/access}]
`, dir, tr.URL),
	})
	said := func(code int, want string, args ...string) {
		t.Helper()
		if r := agent.Curfew(t, append([]string{"streams"}, args...)...); r.Code != code || !strings.Contains(r.Stdout+r.Stderr, want) {
			t.Errorf("streams %v: %+v; want %q", args, r, want)
		}
	}
	said(0, "no streams", "list", "idp")
	said(1, `no transmitter is called "nobody"`, "list", "nobody")
	said(0, "stream-1  push to https://"+agent.Gateway+"/v1/signals/idp", "create", "idp")
	said(0, "curfew streams add idp stream-1 ADDRESS", "create", "idp")
	said(0, "the verification event has come", "verify", "idp", "stream-1")
	said(0, "enabled", "list", "idp")
	said(0, "paused", "pause", "idp", "stream-1", "--reason", "maintenance")
	said(0, "disabled", "disable", "idp", "stream-1")
	said(0, "enabled", "enable", "idp", "stream-1")
	said(0, "stream-1", "add", "idp", "stream-1", "alice@example.org")
	said(0, "stream-1", "remove", "idp", "stream-1", fmt.Sprintf(`{"format":"iss_sub","iss":%q,"sub":"bob"}`, tr.URL))
	said(1, "want an address", "add", "idp", "stream-1", `{"format":"phone_number","phone_number":"+1206"}`)
	said(2, "is not JSON", "add", "idp", "stream-1", `{"format"`)
	if want := []string{"/add alice@example.org", "/remove bob"}; !slices.Equal(tr.subjects, want) {
		t.Errorf("subjects %q, want %q", tr.subjects, want)
	}
	tr.header = ""
	said(0, "push to", "update", "idp", "stream-1")
	said(0, "the verification event has come", "verify", "idp", "stream-1") // with the token that it was given again
	said(0, "poll to", "update", "idp", "stream-1", "--poll")
	said(0, "the stream is deleted", "delete", "idp", "stream-1")
	said(0, "no streams", "list", "idp")
}
