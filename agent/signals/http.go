// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
)

// retryAfter is what those are told who have to try again, in seconds.
const retryAfter = "10"

// admission is what becomes of who presents a token.
type admission int

const (
	admitted admission = iota
	denied             // the token is wrong
	limited            // it is wrong again, too often
)

// door lets those in who have a token. Whoever has it is let in even if others of the same address tried wrong ones: a
// provider's cloud is an address that strangers can send from, too. It is safe for concurrent use.
type door struct {
	limit jose.FailureLimit
	now   func() time.Time
}

func (d *door) admit(r *http.Request, good bool) admission {
	if good {
		return admitted
	}
	from := source(r)
	if !d.limit.Admit(from, d.now()) {
		return limited
	}
	d.limit.Failed(from, d.now())
	return denied
}

// source is whom a request comes from. All that cannot be read count as one.
func source(r *http.Request) netip.Addr {
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	return from.Addr()
}

// readBody reads a body of at most most bytes.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return nil, errors.New("the body is too big")
	}
	return body, err
}

func writeJSON(w http.ResponseWriter, contentType string, status int, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone: nobody is left to tell
}

// writeError answers where no standard says how.
func writeError(w http.ResponseWriter, status int, code, message string) {
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", retryAfter)
	}
	writeJSON(w, "application/json", status, &api.Error{Code: code, Message: jose.Printable(message)})
}
