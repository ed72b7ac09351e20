// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/test/oidc"
)

var logoutLink = regexp.MustCompile(`https://\S+/logout/\S+`)

// TestSignOutAtTheProvider goes the whole way of an RP-initiated logout: curfew logout --provider, the browser, the
// provider's page, and back. The names are those of the modules of the OpenID conformance suite.
func TestSignOutAtTheProvider(t *testing.T) {
	s := newSite(t, "true", ", post_logout_redirect: true")
	var last oidc.Page
	t.Run("oidcc-client-test-rp-init-logout", func(t *testing.T) {
		r := s.alice.curfew(t, "logout", "--provider", "--no-browser")
		link := logoutLink.FindString(r.Stdout)
		if r.Code != 0 || link == "" {
			t.Fatalf("logout: %+v", r)
		}
		page, err := s.alice.browser.Walk(t.Context(), link, nil)
		if err != nil || page.Status != http.StatusOK || !strings.Contains(page.Body, "you are signed out here and at the identity provider") {
			t.Fatalf("%v, %+v", err, page)
		}
		last = page
		if page, err := s.alice.browser.Walk(t.Context(), link, nil); err != nil || page.Status == http.StatusOK {
			t.Errorf("the link again: %v, %d", err, page.Status)
		}
	})
	if t.Failed() {
		return
	}
	t.Run("oidcc-client-test-rp-init-logout-other-state", func(t *testing.T) {
		q := last.URL.Query()
		for name, state := range map[string]string{"used": q.Get("state"), "another": "another", "none": ""} {
			q.Set("state", state)
			last.URL.RawQuery = q.Encode()
			if page, err := s.alice.browser.Walk(t.Context(), last.URL.String(), nil); err != nil || page.Status == http.StatusOK {
				t.Errorf("%s: %v, %d", name, err, page.Status)
			}
		}
	})
	t.Run("oidcc-client-test-rp-init-logout-no-state", func(t *testing.T) {
		last.URL.RawQuery = ""
		if page, err := s.alice.browser.Walk(t.Context(), last.URL.String(), nil); err != nil || page.Status == http.StatusOK {
			t.Errorf("%v, %d", err, page.Status)
		}
	})
	s.alice.mustLogin(t)
}
