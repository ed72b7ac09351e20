// SPDX-License-Identifier: Apache-2.0

package control

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("GET /v1/services", s.services)
	mux.HandleFunc("GET /v1/sessions", s.sessions)
	mux.HandleFunc("GET /v1/sessions/{id}", s.session)
	mux.HandleFunc("POST /v1/sessions", s.create)
	mux.HandleFunc("GET /v1/connections", s.connections)
	mux.HandleFunc("GET /v1/events", s.events)
	mux.HandleFunc("POST /v1/kill", s.kill)
	mux.HandleFunc("GET /v1/cluster", s.inCluster(s.nodes))
	mux.HandleFunc("POST /v1/cluster", s.inCluster(s.changeCluster))
	mux.HandleFunc("POST /v1/cluster/token", s.inCluster(s.token))
	mux.HandleFunc("POST /v1/streams", s.streams)
	if s.cfg.Metrics != nil {
		mux.Handle("GET /metrics", s.cfg.Metrics)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &api.Error{
			Code:    api.CodeNotFound,
			Message: fmt.Sprintf("there is no %s %s", r.Method, r.URL.Path),
			Hint:    "the command line tool and the agent may be of different versions",
		})
	})
	return mux
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, s.cfg.Health.Status())
}

func (s *Server) services(w http.ResponseWriter, _ *http.Request) {
	list := s.cfg.View.Services()
	slices.SortFunc(list, func(a, b api.ServiceInfo) int { return cmp.Compare(a.Name, b.Name) })
	writeJSON(w, orEmpty(list))
}

// sessions lists sessions, newest first: the live ones, or with ?all=true also those that ended.
func (s *Server) sessions(w http.ResponseWriter, r *http.Request) {
	all, subject := r.FormValue("all") == "true", r.FormValue("subject")
	list := slices.DeleteFunc(s.cfg.View.Sessions(""), func(si api.SessionInfo) bool {
		return !all && si.State != api.StateLive || subject != "" && si.Identity.Subject != subject
	})
	slices.SortFunc(list, func(a, b api.SessionInfo) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID.String(), b.ID.String()))
	})
	writeJSON(w, orEmpty(list))
}

func (s *Server) session(w http.ResponseWriter, r *http.Request) {
	found, err := s.find(r.PathValue("id"))
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, found)
}

// connections lists live connections, oldest first; ?session=, ?service= and ?subject= narrow.
func (s *Server) connections(w http.ResponseWriter, r *http.Request) {
	id, service, subject := session.ID{}, r.FormValue("service"), r.FormValue("subject")
	if prefix := r.FormValue("session"); prefix != "" {
		found, err := s.find(prefix)
		if err != nil {
			writeError(w, err)
			return
		}
		id = found.ID
	}
	list := slices.DeleteFunc(s.cfg.View.Connections(), func(c api.ConnectionInfo) bool {
		return !id.IsZero() && c.Session != id || service != "" && c.Service != service ||
			subject != "" && c.Subject != subject
	})
	slices.SortFunc(list, func(a, b api.ConnectionInfo) int {
		return cmp.Or(a.Opened.Compare(b.Opened), cmp.Compare(a.ID, b.ID))
	})
	writeJSON(w, orEmpty(list))
}

// minPrefix keeps a slip of the finger from naming a session.
const minPrefix = 4

// find returns the session with the given ID or unique prefix of one.
func (s *Server) find(prefix string) (api.SessionInfo, error) {
	prefix = strings.ToLower(prefix)
	if len(prefix) < minPrefix {
		return api.SessionInfo{}, badRequest(fmt.Sprintf("%q is too short for a session", prefix),
			fmt.Sprintf("give at least %d characters of its ID", minPrefix))
	}
	found := s.cfg.View.Sessions(prefix)
	switch len(found) {
	case 0:
		return api.SessionInfo{}, &api.Error{Code: api.CodeNotFound,
			Message: fmt.Sprintf("no session %q", prefix), Hint: "list them with: curfew sessions list --all"}
	case 1:
		return found[0], nil
	}
	return api.SessionInfo{}, badRequest(fmt.Sprintf("%q is the beginning of %d sessions", prefix, len(found)),
		"give more characters of its ID")
}
