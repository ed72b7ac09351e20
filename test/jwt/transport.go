// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"net/http"
	"net/http/httptest"
)

// Transport answers requests in memory: what waits for a socket would hold up the clock of a synctest bubble.
type Transport struct{ http.Handler }

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	t.ServeHTTP(w, r)
	return w.Result(), nil
}
