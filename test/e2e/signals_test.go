// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/jwt"
	"github.com/curfew-proxy/curfew/test/peers"
)

// What others tell the agent about users ends their streams, and nobody else's: a plain request, a directory that
// deactivates somebody, and a security event. None does so for who cannot prove who they are.
func TestSignals(t *testing.T) {
	dir, key := t.TempDir(), jwt.NewKey(t, "k")
	token := strings.Repeat("t0ken-", 8)
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := httptest.NewServer(jwt.Serve(key))
	t.Cleanup(keys.Close)
	e := startEcho(t)
	addr := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	r := &rig{echo: e, addr: addr, Agent: harness.Start(t, harness.Config{
		Services: service("echo", addr, e.addr, ""),
		Extra: fmt.Sprintf(`machines: [{name: ci, issuer: 'https://idp.example', audience: gateway, subjects: ['*'], jwks_uri: '%[2]s'}]
webhooks: [{name: siem, token_file: %[1]s/token}]
scim: [{name: directory, issuer: 'https://idp.example', token_file: %[1]s/token, user_name: subject}]
signals: [{name: idp, issuer: 'https://idp.example', audience: curfew, jwks_uri: '%[2]s', token_file: %[1]s/token}]
`, dir, keys.URL),
	})}
	set := func(subject string) string {
		claims, err := json.Marshal(map[string]any{"iss": "https://idp.example", "aud": "curfew", "iat": time.Now().Unix(), "jti": subject,
			"sub_id": map[string]any{"format": "iss_sub", "iss": "https://idp.example", "sub": subject},
			"events": map[string]any{"https://schemas.openid.net/secevent/caep/event-type/session-revoked": map[string]any{}}})
		if err != nil {
			t.Fatal(err)
		}
		return key.Sign(t, map[string]any{"alg": "RS256", "kid": "k", "typ": "secevent+jwt"}, string(claims))
	}
	for _, tc := range []struct {
		user, method, path, kind, body string
		want                           int
	}{
		{"ann", "POST", "/v1/kill", "application/json", `{"subject":"ann","reason":"laptop stolen"}`, http.StatusOK},
		{"ben", "PATCH", "/scim/v2/directory/Users/", "application/scim+json",
			`{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","path":"active","value":false}]}`, http.StatusOK},
		{"cleo", "POST", "/v1/signals/idp", "application/secevent+jwt", set("cleo"), http.StatusAccepted},
	} {
		t.Run(tc.path, func(t *testing.T) {
			theirs, others := signedIn(t, r, key, tc.user), signedIn(t, r, key, tc.user+"-other")
			cut, stays := mustConnect(t, addr, theirs), mustConnect(t, addr, others)
			path := tc.path
			if tc.method == "PATCH" {
				path += scimID(t, r, tc.path, tc.user, token)
			}
			if code, body := tell(t, r, tc.method, path, tc.kind, tc.body, "another"+token); code != http.StatusUnauthorized && code != http.StatusBadRequest {
				t.Errorf("with a wrong token: %d %s", code, body)
			}
			if err := roundTrip(cut); err != nil {
				t.Fatalf("whoever cannot prove who they are has ended it: %v", err)
			}
			if code, body := tell(t, r, tc.method, path, tc.kind, tc.body, token); code != tc.want {
				t.Fatalf("%d %s", code, body)
			}
			mustEnd(t, cut)
			mustRefuse(t, addr, theirs)
			if err := roundTrip(stays); err != nil {
				t.Errorf("somebody else's: %v", err)
			}
		})
	}
}

// A token that has leaked is of no use any more after a reload; nobody's connections are cut for it.
func TestTokensAreReplacedByAReload(t *testing.T) {
	file, old, fresh := filepath.Join(t.TempDir(), "token"), strings.Repeat("o1d-", 10), strings.Repeat("n3w-", 10)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(old)
	r := newRig(t, fmt.Sprintf("webhooks: [{name: siem, token_file: %s}]\n", file))
	_, creds := r.CreateSession(t, "alice", time.Hour)
	conn := mustConnect(t, r.addr, creds)
	kill := func(token string) int {
		code, _ := tell(t, r, "POST", "/v1/kill", "application/json", `{"subject":"nobody"}`, token)
		return code
	}
	if code := kill(old); code != http.StatusOK {
		t.Errorf("the old token, before: %d", code)
	}
	write(fresh)
	harness.Signal(t, r.EnforcerPID(), syscall.SIGHUP)
	harness.Eventually(t, "the new token", func() error {
		if code := kill(fresh); code != http.StatusOK {
			return fmt.Errorf("answered with %d", code)
		}
		return nil
	})
	if code := kill(old); code != http.StatusUnauthorized {
		t.Errorf("the old token, afterwards: %d", code)
	}
	if err := roundTrip(conn); err != nil {
		t.Errorf("a connection was cut: %v", err)
	}
}

// signedIn has a machine sign in with a token of its platform, by the program.
func signedIn(t *testing.T, r *rig, key *jwt.Key, subject string) harness.Credentials {
	t.Helper()
	m := newMachine(t, r, key, subject, time.Hour)
	m.login(t)
	return m.credentials(t)
}

// scimID is what the agent calls a user, as a directory finds out.
func scimID(t *testing.T, r *rig, path, user, token string) string {
	t.Helper()
	code, body := tell(t, r, "GET", path[:len(path)-1]+"?filter=userName%20eq%20%22"+user+"%22", "", "", token)
	var list struct{ Resources []struct{ ID string } }
	if err := json.Unmarshal([]byte(body), &list); err != nil || code != http.StatusOK || len(list.Resources) != 1 {
		t.Fatalf("find %s: %d %s", user, code, body)
	}
	return list.Resources[0].ID
}

func tell(t *testing.T, r *rig, method, path, kind, body, token string) (code int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+r.Gateway+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Authorization", "Bearer "+token)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}} // self-made
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
