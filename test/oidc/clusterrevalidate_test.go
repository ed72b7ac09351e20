// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/jwt"
	"github.com/curfew-proxy/curfew/test/oidc"
	"github.com/curfew-proxy/curfew/test/peers"
)

// streams opens one through each node.
func (s *clusterSite) streams(t *testing.T) (list []*tls.Conn) {
	t.Helper()
	for _, n := range s.Nodes {
		conn, err := ask(t, n, s.creds)
		if err != nil {
			t.Fatalf("%s: %v", n.Name, err)
		}
		list = append(list, conn)
	}
	return list
}

// mustEnd waits until all streams are cut, and sees that no node lets the user in.
func (s *clusterSite) mustEnd(t *testing.T, streams []*tls.Conn) {
	t.Helper()
	for i, conn := range streams {
		if err := conn.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("%s: the stream goes on: %d bytes, %v", s.Nodes[i].Name, n, err)
		}
	}
	for _, n := range s.Nodes {
		if _, err := ask(t, n, s.creds); err == nil {
			t.Errorf("%s lets the user in again", n.Name)
		}
	}
}

// TestRevalidationInACluster has the node where the user signed in ask the provider, and no other: it has the tokens, and each
// can be used but once. What the provider says counts at all nodes.
func TestRevalidationInACluster(t *testing.T) {
	s := newClusterSite(t, `"dba" in identity.groups`, ", revalidate: {every: 1s}", "")
	streams := s.streams(t)
	began, err := s.provider.Tokens()
	if err != nil {
		t.Fatal(err)
	}
	var tokens []string
	harness.Eventually(t, "the provider to be asked five times", func() error {
		if tokens, err = s.provider.Tokens(); err != nil || len(tokens) < len(began)+5*3 { // three each time
			return fmt.Errorf("%d tokens, %d before, %v", len(tokens), len(began), err)
		}
		return nil
	})
	for i, conn := range streams {
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Errorf("%s: %v", s.Nodes[i].Name, err)
		}
	}
	for i, n := range s.Nodes {
		found := 0
		for _, token := range tokens {
			found += inMemory(t, n.ProxyPID(t), token) + len(inFiles(t, n.Dir, token))
		}
		if (found > 0) != (i == 0) {
			t.Errorf("%s has %d copies of tokens", n.Name, found)
		}
	}

	if err := s.provider.SetClaims("alice", oidc.Claims{"name": "Alice", "groups": []string{"sales"}}); err != nil {
		t.Fatal(err)
	}
	for _, conn := range streams { // what they still have to say
		_, _ = conn.Read(make([]byte, 4))
	}
	s.mustEnd(t, streams)
	if r := s.alice.curfew(t, "status"); r.Code != 0 {
		t.Errorf("the session is over: %+v", r)
	}

	if err := s.provider.SetClaims("alice", oidc.Claims{"name": "Alice", "groups": []string{"dba"}}); err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Nodes {
		harness.Eventually(t, n.Name+" to let the user in again", func() error { _, err := ask(t, n, s.creds); return err })
	}
	streams = s.streams(t)
	if err := s.provider.RevokeGrants("alice"); err != nil {
		t.Fatal(err)
	}
	s.mustEnd(t, streams)
	if r := s.alice.curfew(t, "status"); r.Code != 4 || !strings.Contains(r.Stderr, "the grant is revoked") {
		t.Errorf("status: %+v", r)
	}
}

// TestClaimsEventInACluster has a transmitter tell the second node that a user's claims have changed: the first asks the
// provider, which it would not do for an hour, and the streams through all nodes are cut that the new claims do not allow.
func TestClaimsEventInACluster(t *testing.T) {
	key, port, token := jwt.NewKey(t, "k"), peers.FreePort(t), strings.Repeat("t0ken-", 8)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newClusterSite(t, `"dba" in identity.groups`, ", revalidate: {every: 1h}",
		fmt.Sprintf("signals: [{name: idp, issuer: 'ISSUER', audience: curfew, jwks_uri: 'http://127.0.0.1:%d/', token_file: %s}]\n", port, file))
	second := s.Nodes[1]
	l, err := second.Host.Listen(fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	keys := &http.Server{Handler: jwt.Serve(key), ReadHeaderTimeout: harness.Patience}
	go func() { _ = keys.Serve(l) }()
	t.Cleanup(func() { _ = keys.Close() })
	streams := s.streams(t)
	if err := s.provider.SetClaims("alice", oidc.Claims{"name": "Alice", "groups": []string{"sales"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, second, s.creds); err != nil {
		t.Fatalf("the provider has told nobody yet, and the user is kept out: %v", err)
	}

	if code := s.tell(t, second, token, key.Sign(t, map[string]any{"alg": "RS256", "kid": "k", "typ": "secevent+jwt"}, claimsChange(t, s.provider.Issuer))); code != http.StatusAccepted {
		t.Fatalf("the event is answered with %d", code)
	}
	s.mustEnd(t, streams)
	if r := s.alice.curfew(t, "status"); r.Code != 0 {
		t.Errorf("the session is over: %+v", r)
	}
}

// claimsChange says that alice's claims at a provider have changed.
func claimsChange(t *testing.T, issuer string) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"iss": issuer, "aud": "curfew", "iat": time.Now().Unix(), "jti": "1",
		"sub_id": map[string]any{"format": "iss_sub", "iss": issuer, "sub": "alice"},
		"events": map[string]any{"https://schemas.openid.net/secevent/caep/event-type/token-claims-change": map[string]any{"claims": map[string]any{"groups": []string{"sales"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tell pushes a security event to a node.
func (s *clusterSite) tell(t *testing.T, n *harness.Node, token, event string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+n.Gateway+"/v1/signals/idp", strings.NewReader(event))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/secevent+jwt")
	req.Header.Set("Authorization", "Bearer "+token)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // self-made
		DialContext: func(_ context.Context, _, to string) (net.Conn, error) { return n.Host.Dial("", to, harness.Patience) }}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}
