// SPDX-License-Identifier: Apache-2.0

package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

func badRequest(message, hint string) *api.Error {
	return &api.Error{Code: api.CodeBadRequest, Message: message, Hint: hint}
}

// readJSON reads exactly one JSON value without unknown fields: a misspelt selector must not
// widen a kill.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return badRequest(fmt.Sprintf("read request: %v", err), "")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badRequest("read request: more than one JSON value", "")
	}
	return nil
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{} // "[]", not "null"
	}
	return list
}

func writeJSON(w http.ResponseWriter, v any) { write(w, http.StatusOK, v) }

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the caller has gone away
}

// writeError answers with err as JSON; see Actor for how errors are sorted.
func writeError(w http.ResponseWriter, err error) {
	var e *api.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, session.ErrNotFound):
		e = &api.Error{Code: api.CodeNotFound, Message: err.Error()}
	case errors.Is(err, session.ErrTooMany):
		e = &api.Error{Code: api.CodeTooMany, Message: err.Error(), Hint: "see sessions.max in the configuration"}
	case errors.Is(err, context.DeadlineExceeded):
		e = &api.Error{Code: api.CodeUnavailable, Message: err.Error()}
	default:
		e = &api.Error{Code: api.CodeInternal, Message: err.Error(), Hint: "look into the agent's log"}
	}
	write(w, cmp.Or(statusOf[e.Code], http.StatusInternalServerError), e)
}

var statusOf = map[string]int{
	api.CodeBadRequest:  http.StatusBadRequest,
	api.CodeForbidden:   http.StatusForbidden,
	api.CodeNotFound:    http.StatusNotFound,
	api.CodeTooMany:     http.StatusTooManyRequests,
	api.CodeUnavailable: http.StatusServiceUnavailable,
	api.CodeUnreachable: http.StatusBadGateway,
	api.CodeInternal:    http.StatusInternalServerError,
}
