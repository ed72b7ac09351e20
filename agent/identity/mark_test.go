// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
)

func TestMarkOf(t *testing.T) {
	secret := marked("0a1b")
	if _, rest, ok := strings.Cut(secret, "."); !ok || len(rest) != len(newSecret()) || strings.Contains(marked(""), ".") {
		t.Fatalf("%q", secret)
	}
	for _, tc := range []struct{ method, target, body, want string }{
		{"GET", "/start/" + secret, "", "0a1b"},
		{"GET", "/logout/" + secret, "", "0a1b"},
		{"GET", "/callback?state=" + secret, "", "0a1b"},
		{"GET", "/callback/corp?code=x&state=" + secret, "", "0a1b"},
		{"GET", "/signed-out/corp?state=" + secret, "", "0a1b"},
		{"POST", api.PathLoginComplete, `{"code":"` + secret + `"}`, "0a1b"},
		{"POST", api.PathDevicePoll, `{"login":"` + secret + `"}`, "0a1b"},
		{"GET", "/start/unmarked", "", ""},
		{"GET", "/callback?state=", "", ""},
		{"POST", api.PathLoginComplete, `not JSON`, ""},
		{"POST", api.PathLoginComplete, `{"code":"` + strings.Repeat("a.", maxMarkedBody) + `"}`, ""},
		{"POST", api.PathLogin, `{"code":"` + secret + `"}`, ""}, // it begins one: any node can
		{"GET", api.PathSession + "?state=" + secret, "", ""},
		{"GET", "/elsewhere/" + secret, "", ""},
	} {
		r := httptest.NewRequest(tc.method, tc.target, strings.NewReader(tc.body))
		if got := MarkOf(r); got != tc.want {
			t.Errorf("%s %.60s %.40s: %q, want %q", tc.method, tc.target, tc.body, got, tc.want)
		}
		if rest, err := io.ReadAll(r.Body); err != nil || string(rest) != tc.body {
			t.Errorf("%s %.60s: the body cannot be read again: %d of %d bytes, %v", tc.method, tc.target, len(rest), len(tc.body), err)
		}
	}
}

// Whoever comes about a sign-in of a node that is away is told so in a form that they understand.
func TestUnreachableNode(t *testing.T) {
	for target, kind := range map[string]string{"/callback?state=x": "text/html; charset=utf-8", api.PathLoginComplete: "application/json"} {
		w := httptest.NewRecorder()
		WriteUnreachable(w, httptest.NewRequest("GET", target, nil))
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Content-Type") != kind || !strings.Contains(w.Body.String(), "curfew login") {
			t.Errorf("%s: %d %s %s", target, w.Code, w.Header(), w.Body)
		}
	}
}
