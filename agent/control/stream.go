// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
)

// events answers with one JSON event a line (NDJSON): what the ring holds after ?since=SEQ, and
// with ?follow=true all that comes later, until the caller leaves or the agent stops.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	var since uint64
	if text := r.FormValue("since"); text != "" {
		var err error
		if since, err = strconv.ParseUint(text, 10, 64); err != nil {
			writeError(w, badRequest("since: want a sequence number", "use the seq of an event"))
			return
		}
	}
	reader := s.cfg.Events.ReadFrom(since)
	out := newStream(w)
	evs, lost := reader.Available()
	for len(evs) > 0 || lost > 0 {
		if out.send(evs, lost) != nil {
			return // the caller has gone away, or does not read
		}
		evs, lost = reader.Available()
	}
	if r.FormValue("follow") == "true" {
		_ = out.follow(r.Context(), reader) // the only errors: the caller left, or the agent stops
	}
}

// stream writes batches of events, each within writeTimeout.
type stream struct {
	enc *json.Encoder
	rc  *http.ResponseController
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	s := &stream{enc: json.NewEncoder(io.Writer(w)), rc: http.NewResponseController(w)}
	s.enc.SetEscapeHTML(false)
	_ = s.rc.SetReadDeadline(time.Time{}) // the request is read; the server's limit would end the stream
	_ = s.rc.Flush()                      // so that a follower knows at once that it is connected
	return s
}

func (s *stream) follow(ctx context.Context, r *Reader) error {
	for {
		evs, lost, err := r.Next(ctx)
		if err != nil {
			return err
		}
		if err := s.send(evs, lost); err != nil {
			return err
		}
	}
}

func (s *stream) send(evs []api.Event, lost uint64) error {
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // every connection of the server has one
	if lost > 0 {
		if err := s.enc.Encode(api.Event{Time: time.Now(), Type: api.EventLost, Lost: lost}); err != nil {
			return err
		}
	}
	for _, ev := range evs {
		if err := s.enc.Encode(ev); err != nil {
			return err
		}
	}
	return s.rc.Flush()
}
