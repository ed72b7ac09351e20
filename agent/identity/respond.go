// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
)

// Bounds on the body of a request, and of one that has a token in it.
const (
	maxBody      = 16 << 10
	maxTokenBody = jose.MaxToken + 4<<10
)

// methods serves one path by method.
type methods map[string]http.HandlerFunc

func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if serve, ok := m[r.Method]; ok {
		serve(w, r)
		return
	}
	var allowed []string
	for method := range m {
		allowed = append(allowed, method)
	}
	slices.Sort(allowed)
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	writeError(w, &api.Error{Code: api.CodeMethod, Message: "the method is not one of " + strings.Join(allowed, ", ")})
}

func setHeaders(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	writeError(w, &api.Error{Code: api.CodeNotFound, Message: "there is nothing at this path"})
}

func readJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/json" {
		return &api.Error{Code: api.CodeUnsupportedType, Message: "the body must be application/json"}
	}
	return decodeBody(http.MaxBytesReader(w, r.Body, limit), v)
}

// decodeBody reads exactly one JSON object with no fields that v does not have.
func decodeBody(body io.Reader, v any) error {
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return &api.Error{Code: api.CodeBadRequest, Message: "the body is not what this path takes: " + err.Error()}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return &api.Error{Code: api.CodeBadRequest, Message: "the body has more than one JSON value"}
	}
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone: nobody is left to tell
}

func writeError(w http.ResponseWriter, e *api.Error) { writeJSON(w, statusOf(e.Code), e) }

func statusOf(code string) int {
	switch code {
	case api.CodeBadRequest, api.CodeChooseProvider, api.CodeChooseMachine:
		return http.StatusBadRequest
	case api.CodeNoCertificate:
		return http.StatusUnauthorized
	case api.CodeForbidden, api.CodeLoginInvalid, api.CodeSessionEnded, api.CodeProviderFailed,
		api.CodeTokenRefused, api.CodeTokenUsed:
		return http.StatusForbidden
	case api.CodeNotFound, api.CodeUnknownKey:
		return http.StatusNotFound
	case api.CodeMethod:
		return http.StatusMethodNotAllowed
	case api.CodeUnsupportedType:
		return http.StatusUnsupportedMediaType
	case api.CodeTooMany:
		return http.StatusTooManyRequests
	case api.CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
