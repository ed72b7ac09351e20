// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"errors"
	"mime"
	"net/http"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
)

// push serves the delivery of events by their transmitters: RFC 8935. An event is acknowledged when what it says has been
// done, and not before.
func (s *Signals) push(w http.ResponseWriter, r *http.Request) {
	to := s.receivers[r.PathValue("name")]
	if to == nil || len(to.tokens) == 0 {
		writeError(w, http.StatusNotFound, api.CodeNotFound, "no transmitter of this name delivers events here")
		return
	}
	token := bearer(r)
	switch s.doors.push.admit(r, to.tokens.accept(token)) {
	case limited:
		s.cfg.Count(EventLimited)
		writeError(w, http.StatusTooManyRequests, api.CodeTooMany, "too many attempts of yours were refused")
		return
	case denied:
		code := codeUnknown
		if s.isTransmitter(token) {
			code = codeDenied
		}
		s.cfg.Count(EventUnauthenticated)
		to.log.Warn("security event", "outcome", EventUnauthenticated, "source", source(r), "code", code)
		writeRefusal(w, refuse(code, "the bearer token is not that of this transmitter"))
		return
	}
	body, err := readSET(w, r)
	if err != nil {
		err = to.failed(to.log.With("delivery", "push", "source", source(r)), &refusal{codeRequest, err})
	} else {
		err = to.take(r.Context(), body, "push")
	}
	answer(w, err)
}

// answer tells a transmitter what has become of its event.
func answer(w http.ResponseWriter, err error) {
	var refused *refusal
	switch {
	case err == nil:
		w.WriteHeader(http.StatusAccepted)
	case errors.As(err, &refused):
		writeRefusal(w, refused)
	case errors.Is(err, errFull):
		writeError(w, http.StatusTooManyRequests, api.CodeTooMany, err.Error())
	case errors.Is(err, jose.ErrNoKeys):
		writeError(w, http.StatusServiceUnavailable, api.CodeUnavailable, "the transmitter's keys cannot be had: try again")
	default:
		writeError(w, http.StatusServiceUnavailable, api.CodeUnavailable, "the event "+errNotDone.Error()+": try again")
	}
}

// readSET reads the body of a request, which is nothing but a SET.
func readSET(w http.ResponseWriter, r *http.Request) (string, error) {
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/secevent+jwt" {
		return "", errors.New("the content type is not application/secevent+jwt")
	}
	body, err := readBody(w, r, jose.MaxToken)
	return string(body), err
}

// isTransmitter reports whether a token is that of any transmitter.
func (s *Signals) isTransmitter(token string) bool {
	is := false
	for _, r := range s.receivers {
		is = r.tokens.accept(token) || is
	}
	return is
}

// refusalJSON is an error by RFC 8935, section 2.3, and RFC 8936, section 2.6.
type refusalJSON struct {
	Err         string `json:"err"`
	Description string `json:"description"`
}

func (r *refusal) json() refusalJSON {
	return refusalJSON{Err: r.code, Description: jose.Printable(r.Error())}
}

// writeRefusal answers by RFC 8935, section 2.3, which has one status for all that is wrong with an event or with who
// sends it.
func writeRefusal(w http.ResponseWriter, refused *refusal) {
	w.Header().Set("Content-Language", "en")
	if refused.code == codeUnknown {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	writeJSON(w, "application/json", http.StatusBadRequest, refused.json())
}
