// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/jwt"
	"github.com/curfew-proxy/curfew/test/peers"
)

// The agent fetches an event from a transmitter that cannot reach it: the user's stream is cut, nobody else's, and only then is the
// transmitter told that it is done.
func TestSignalsArePolled(t *testing.T) {
	dir, key := t.TempDir(), jwt.NewKey(t, "k")
	events, acked := make(chan string, 1), make(chan string, 8)
	mux := http.NewServeMux()
	mux.HandleFunc("/keys", jwt.Serve(key))
	mux.HandleFunc("POST /poll", func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ Ack []string }
		if r.Header.Get("Authorization") != "Bearer access" || json.NewDecoder(r.Body).Decode(&asked) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		for _, jti := range asked.Ack {
			acked <- jti
		}
		sets := map[string]string{}
		if len(asked.Ack) == 0 {
			select {
			case sets["1"] = <-events:
			case <-r.Context().Done():
			}
		}
		reply(w, http.StatusOK, map[string]any{"sets": sets})
	})
	tr := httptest.NewServer(mux)
	t.Cleanup(tr.Close)
	if err := os.WriteFile(filepath.Join(dir, "access"), []byte("access"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := startEcho(t)
	addr := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	r := &rig{echo: e, addr: addr, Agent: harness.Start(t, harness.Config{
		Services: service("echo", addr, e.addr, ""),
		Extra: fmt.Sprintf(`machines: [{name: ci, issuer: 'https://idp.example', audience: gateway, subjects: ['*'], jwks_uri: '%[2]s/keys'}]
signals: [{name: idp, issuer: 'https://idp.example', audience: curfew, jwks_uri: '%[2]s/keys', poll: '%[2]s/poll', access_token_file: %[1]s/access}]
`, dir, tr.URL),
	})}
	cut, stays := mustConnect(t, addr, signedIn(t, r, key, "ann")), mustConnect(t, addr, signedIn(t, r, key, "ben"))
	claims, err := json.Marshal(map[string]any{"iss": "https://idp.example", "aud": "curfew", "iat": time.Now().Unix(), "jti": "1",
		"sub_id": map[string]any{"format": "iss_sub", "iss": "https://idp.example", "sub": "ann"},
		"events": map[string]any{"https://schemas.openid.net/secevent/caep/event-type/session-revoked": map[string]any{}}})
	if err != nil {
		t.Fatal(err)
	}
	events <- key.Sign(t, map[string]any{"alg": "RS256", "kid": "k", "typ": "secevent+jwt"}, string(claims))
	mustEnd(t, cut)
	select {
	case jti := <-acked:
		if jti != "1" {
			t.Errorf("acknowledged %q", jti)
		}
	case <-time.After(harness.Patience):
		t.Error("the event is not acknowledged")
	}
	if err := roundTrip(stays); err != nil {
		t.Errorf("somebody else's: %v", err)
	}
}
