// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
)

// Whatever is posted, the agent is asked to kill only what was selected, and everybody only when
// that was said and nothing else.
func FuzzKillRequest(f *testing.F) {
	for _, seed := range []string{
		`{"all":true}`, `{"session":"aaaa0"}`, `{"subject":"alice","service":"db"}`, `{"all":true,"subject":"x"}`, `{}`, `null`,
		`{"ALL":true,"all":false}`, `{"all":true}{"all":true}`, `{"session":"","where":""}`, `[{"all":true}]`, "\x00", `{"all":true,"x":1}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		b := &fake{}
		s, err := New(Config{View: b, Actor: b, Health: b, Events: NewEvents(1), Log: discard()})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("POST", "/v1/kill", strings.NewReader(body))
		w := httptest.NewRecorder()
		s.admit(s.mux).ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, peer{uid: 0})))
		for _, req := range b.killed {
			others := req
			others.All, others.Reason, others.DryRun = false, "", false
			if req.Empty() || req.All && others != (api.KillRequest{}) {
				t.Errorf("%q became %+v", body, req)
			}
		}
		var e api.Error
		if w.Code != 200 && (json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Code == "" || len(b.killed) != 0) {
			t.Errorf("%q: status %d, %s, killed %d", body, w.Code, w.Body, len(b.killed))
		}
	})
}
