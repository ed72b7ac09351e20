// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"net/http"
	"slices"

	"github.com/curfew-proxy/curfew/agent/api"
)

// Streams manages what transmitters of security events send to this agent. An error that is an *api.Error reaches the
// caller as it is. Implementations are safe for concurrent use.
type Streams interface {
	// Streams does what is asked for, and returns the streams that it is about; none if it was deleted.
	Streams(ctx context.Context, req api.StreamsRequest) ([]api.StreamInfo, error)
}

var streamVerbs = []string{api.StreamsList, api.StreamsCreate, api.StreamsUpdate, api.StreamsAdd, api.StreamsRemove, api.StreamsVerify, api.StreamsEnable, api.StreamsPause, api.StreamsDisable, api.StreamsDelete}

func (s *Server) streams(w http.ResponseWriter, r *http.Request) {
	var req api.StreamsRequest
	if err := readJSON(w, r, &req); err != nil {
		writeError(w, err)
		return
	}
	named := req.Do != api.StreamsList && req.Do != api.StreamsCreate
	switch {
	case s.cfg.Streams == nil:
		writeError(w, &api.Error{Code: api.CodeUnavailable, Message: "no transmitter of security events is configured", Hint: "see signals: in docs/configuration.md"})
		return
	case (req.Do == api.StreamsAdd || req.Do == api.StreamsRemove) != (req.Subject != nil):
		writeError(w, badRequest("want a subject to add or remove, and else none", "see: curfew streams add --help"))
		return
	case !slices.Contains(streamVerbs, req.Do) || req.Transmitter == "" || named != (req.Stream != ""):
		writeError(w, badRequest("want a transmitter, what to do, and the stream that it is about", "see: curfew streams --help"))
		return
	}
	s.act(r, func(ctx context.Context, by string) {
		list, err := s.cfg.Streams.Streams(ctx, req)
		s.cfg.Log.Info("streams of security events", "do", req.Do, "transmitter", req.Transmitter, "stream", req.Stream, "by", by, "error", err)
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, orEmpty(list))
	})
}
