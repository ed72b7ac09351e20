// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// manager is the side of a transmitter that manages streams: SSF 1.0, section 8. It has one stream at most.
type manager struct {
	g      *rig
	out    *outbox      // of streams that are polled
	push   http.Handler // where others are pushed to
	alter  func(object) // changes what it answers
	verify func(state string) []string

	mu       sync.Mutex
	calls    []string // "POST stream" and the like
	stream   object
	state    string // of the stream
	subjects []string
	deleted  int
	tokens   []string
	answers  []string

	pushes sync.WaitGroup
}

// manager adds one to the rig.
func (g *rig) manager() *manager {
	m := &manager{g: g, alter: func(object) {}, state: statusEnabled}
	m.out = g.outbox()
	g.t.Cleanup(m.pushes.Wait)
	m.verify = func(state string) []string {
		c := g.claims(typeVerification, opaque("stream-1"), object{})
		if state != "" {
			c["events"] = object{typeVerification: object{"state": state}}
		}
		return []string{g.sign(c)}
	}
	for name, path := range map[string]string{"configuration_endpoint": "stream", "status_endpoint": "status", "add_subject_endpoint": "add",
		"remove_subject_endpoint": "remove", "verification_endpoint": "verify"} {
		g.metadata[name] = g.server.URL + "/" + path
		g.mux.HandleFunc("/"+path, func(w http.ResponseWriter, r *http.Request) { m.serve(w, r, path) })
	}
	return m
}

func (m *manager) called() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.calls
	m.calls = nil
	return list
}

func (m *manager) serve(w http.ResponseWriter, r *http.Request, path string) {
	body, _ := io.ReadAll(r.Body)
	var q object
	_ = json.Unmarshal(body, &q) // there may be none
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, r.Method+" "+path)
	m.tokens = append(m.tokens, r.Header.Get("Authorization"))
	id := r.URL.Query().Get("stream_id")
	if id == "" && q != nil {
		id, _ = q["stream_id"].(string)
	}
	isNew := r.Method == "POST" && path == "stream"
	all := r.Method == "GET" && path == "stream" && id == ""
	switch {
	case r.Header.Get("Authorization") != "Bearer "+pollToken:
		w.WriteHeader(http.StatusUnauthorized)
	case !isNew && !all && (m.stream == nil || id != m.stream["stream_id"]):
		w.WriteHeader(http.StatusNotFound)
	case path == "stream":
		m.configure(w, r.Method, q, all)
	case path == "status":
		if r.Method == "POST" {
			m.state, _ = q["status"].(string)
		}
		m.answer(w, http.StatusOK, object{"stream_id": id, "status": m.state})
	case path == "verify":
		state, _ := q["state"].(string)
		for _, token := range m.verify(state) {
			m.send(token)
		}
		w.WriteHeader(http.StatusNoContent)
	default: // subjects
		m.subjects = append(m.subjects, path+" "+encode(m.g.t, q["subject"]))
		w.WriteHeader(map[string]int{"add": http.StatusOK, "remove": http.StatusNoContent}[path])
	}
}

// configure serves the configuration endpoint. The lock is held.
func (m *manager) configure(w http.ResponseWriter, method string, q object, all bool) {
	status := http.StatusOK
	switch method {
	case "DELETE":
		m.stream = nil
		m.deleted++
		w.WriteHeader(http.StatusNoContent)
		return
	case "POST":
		status = http.StatusCreated
		m.stream = object{"stream_id": "stream-1", "iss": m.g.issuer(), "aud": us}
		maps.Copy(m.stream, q)
	case "PATCH":
		maps.Copy(m.stream, q)
	case "PUT":
		m.stream = object{"stream_id": "stream-1", "iss": m.g.issuer(), "aud": us}
		maps.Copy(m.stream, q)
	}
	if all {
		list := []object{}
		if m.stream != nil {
			list = append(list, m.stream)
		}
		m.answerAny(w, status, list)
		return
	}
	if d, ok := m.stream["delivery"].(object); ok && d["method"] == MethodPoll {
		d["endpoint_url"] = m.g.server.URL + "/poll"
	}
	m.stream["events_delivered"] = m.stream["events_requested"]
	m.answer(w, status, m.stream)
}

func (m *manager) answer(w http.ResponseWriter, status int, v object) {
	v = maps.Clone(v)
	m.alter(v)
	m.answerAny(w, status, v)
}

func (m *manager) answerAny(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// send delivers an event as the stream says, in its own time. The lock is held.
func (m *manager) send(token string) {
	d, _ := m.stream["delivery"].(object)
	if d["method"] != MethodPush {
		c, err := jose.Unverified(token)
		jti, err2 := c.Text("jti")
		if err != nil || err2 != nil {
			m.g.t.Error(err, err2)
		}
		m.out.put(jti, token)
		return
	}
	where, authorization := d["endpoint_url"].(string), d["authorization_header"].(string)
	m.pushes.Go(func() {
		w := ask(m.push, "POST", where, token, "Authorization", authorization, "Content-Type", "application/secevent+jwt")
		m.mu.Lock()
		defer m.mu.Unlock()
		m.answers = append(m.answers, strings.TrimSpace(http.StatusText(w.Code)+" "+w.Body.String()))
	})
}

// answered returns how pushes were answered.
func (m *manager) answered() []string {
	m.pushes.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.answers
	m.answers = nil
	return list
}
