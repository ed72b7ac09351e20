// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/curfew-proxy/curfew/agent/api"
)

// maxReason is how long the reason of a kill may be, in bytes: all nodes keep it.
const maxReason = 1024

// kill ends sessions. Once begun it does not depend on its caller any longer.
func (s *Server) kill(w http.ResponseWriter, r *http.Request) {
	var req api.KillRequest
	if err := readJSON(w, r, &req); err != nil {
		writeError(w, err)
		return
	}
	if len(req.Reason) > maxReason {
		writeError(w, badRequest("the reason is too long", "say it in a few lines"))
		return
	}
	if req.Empty() {
		writeError(w, badRequest("nothing is selected", "name a session, --subject, --group, --service or --where; --all kills everything"))
		return
	}
	if req.All && (api.KillRequest{All: true, Reason: req.Reason, DryRun: req.DryRun, NoWait: req.NoWait, Patience: req.Patience}) != req {
		writeError(w, badRequest("all and another selector contradict each other", "drop one of them"))
		return
	}
	if req.Session != "" {
		found, err := s.find(req.Session)
		if err != nil {
			writeError(w, err)
			return
		}
		req.Session = found.ID.String()
	}
	s.act(r, func(ctx context.Context, by string) {
		res, err := s.cfg.Actor.Kill(ctx, req, by)
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, res)
	})
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	var req api.CreateSessionRequest
	if err := readJSON(w, r, &req); err != nil {
		writeError(w, err)
		return
	}
	switch {
	case req.Subject == "" || strings.ContainsFunc(req.Subject, isControl):
		writeError(w, badRequest("a session needs a subject without control characters", "name who it is for"))
		return
	case req.TTL <= 0 || req.Idle < 0:
		writeError(w, badRequest("a session needs a time to live above zero", "give it one, such as 1h"))
		return
	case slices.ContainsFunc(req.BindAddrs, func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }):
		writeError(w, badRequest("an address to bind is empty", "name the address that connections come from"))
		return
	case req.Key.IsZero():
		writeError(w, badRequest("a session needs a client key", "send the SHA-256 of the key's SubjectPublicKeyInfo"))
		return
	}
	s.act(r, func(ctx context.Context, by string) {
		res, err := s.cfg.Actor.CreateSession(ctx, req, by)
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, res)
	})
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

// act runs f with a context that outlives the caller's connection.
func (s *Server) act(r *http.Request, f func(ctx context.Context, by string)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), actTimeout)
	defer cancel()
	p, _ := r.Context().Value(peerKey{}).(peer) // admit has checked it
	f(ctx, p.by())
}
