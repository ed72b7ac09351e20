// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestFrontChannelLogout has the browser of somebody fetch what a page of the provider's would have in a frame, with the sid of
// the ID token (OpenID Connect Front-Channel Logout 1.0): their stream is cut, and nobody else's. The provider of the tests
// has no such page; without the sid nothing happens.
func TestFrontChannelLogout(t *testing.T) {
	s := newSite(t, "true", ", front_channel_logout: true")
	hers, his := s.alice.psql(t), s.bob.psql(t)
	fetch := func(sid string) int {
		q := url.Values{"iss": {s.provider.Issuer}, "sid": {sid}}
		page, err := s.alice.browser.Walk(t.Context(), "https://"+s.agent.Gateway+"/frontchannel-logout/corp?"+q.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return page.Status
	}
	if status := fetch("made-up"); status != http.StatusOK { // who asks is told nothing of what there is
		t.Errorf("a sid of nobody: %d", status)
	}
	hers.mustRun(t)
	if status := fetch(s.sidOf(t, "alice")); status != http.StatusOK {
		t.Errorf("hers: %d", status)
	}
	hers.mustEnd(t)
	if r := s.alice.curfew(t, "status"); r.Code != 4 || !strings.Contains(r.Stderr, "front-channel logout") {
		t.Errorf("status: %+v", r)
	}
	his.mustRun(t)
	s.alice.mustLogin(t)
}

// sidOf is what the provider calls the session of a user, as its ID token says.
func (s *site) sidOf(t *testing.T, subject string) string {
	t.Helper()
	tokens, err := s.provider.Tokens()
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens {
		var claims struct{ Sub, Sid string }
		parts := strings.Split(token, ".")
		if len(parts) != 3 {
			continue // no ID token
		}
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil || json.Unmarshal(payload, &claims) != nil {
			t.Fatalf("%q: %v", payload, err)
		}
		if claims.Sub == subject && claims.Sid != "" {
			return claims.Sid
		}
	}
	t.Fatalf("no ID token of %s has a sid", subject)
	return ""
}
