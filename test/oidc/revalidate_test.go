// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/oidc"
)

// TestRevokedGrant has an administrator revoke what a user has granted, of which the provider tells nobody: the agent
// finds out, also when it was restarted in between.
func TestRevokedGrant(t *testing.T) {
	s := newSite(t, "true", ", revalidate: {every: 1s}")
	hers, his := s.alice.psql(t), s.bob.psql(t)
	if err := s.provider.RevokeGrants("alice"); err != nil {
		t.Fatal(err)
	}
	hers.mustEnd(t)
	if r := s.alice.curfew(t, "status"); r.Code != 4 || !strings.Contains(r.Stderr, "the grant is revoked") {
		t.Errorf("status: %+v", r)
	}
	his.mustRun(t)
	s.agent.Stop(t)
	s.agent.Run(t)
	his = s.bob.psql(t)
	time.Sleep(2500 * time.Millisecond) // it is asked about with tokens that were on the disk
	his.mustRun(t)
	if err := s.provider.RevokeGrants("bob"); err != nil {
		t.Fatal(err)
	}
	his.mustEnd(t)
}

// TestStolenRefreshToken has a thief use a refresh token that the agent has used before, as it stands in an old core dump: the
// provider sees two who hold it, takes back all that it gave, and the session ends. Another's goes on.
func TestStolenRefreshToken(t *testing.T) {
	s := newSite(t, "true", ", revalidate: {every: 1s}")
	hers, his := s.alice.psql(t), s.bob.psql(t)
	tokens, err := s.provider.Tokens()
	if err != nil || len(tokens) < 3 {
		t.Fatal(tokens, err)
	}
	stolen := tokens[1] // access, refresh and ID token of hers, who was the first to sign in
	harness.Eventually(t, "it to be used and replaced", func() error {
		active, err := s.provider.Active(t.Context(), "curfew", "s3cret", stolen)
		if err == nil && active {
			err = errors.New("it is good")
		}
		return err
	})
	hers.mustRun(t)
	if code, err := s.provider.Refresh(t.Context(), "curfew", "s3cret", stolen); err != nil || code != "invalid_grant" {
		t.Errorf("the thief gets %q, %v", code, err)
	}
	hers.mustEnd(t)
	if r := s.alice.curfew(t, "status"); r.Code != 4 || !strings.Contains(r.Stderr, "the identity provider ended it") {
		t.Errorf("status: %+v", r)
	}
	his.mustRun(t)
}

// TestClaimsThatChange has a user leave a group at the provider: what policy let in for it is cut, and the session lives.
func TestClaimsThatChange(t *testing.T) {
	s := newSite(t, `"dba" in identity.groups`, ", revalidate: {every: 1s}")
	hers, his := s.alice.psql(t), s.bob.psql(t)
	if err := s.provider.SetClaims("alice", oidc.Claims{"name": "Alice", "groups": []string{"sales"}}); err != nil {
		t.Fatal(err)
	}
	hers.mustEnd(t)
	if r := s.alice.curfew(t, "status"); r.Code != 0 || strings.Contains(r.Stdout, "services: db") {
		t.Errorf("status: %+v", r)
	}
	his.mustRun(t)
}

// TestOutage has the provider go away: that is no reason to end anything, until the grace is over.
func TestOutage(t *testing.T) {
	s := newSite(t, "true", ", revalidate: {every: 1s, grace: 8s}")
	hers := s.alice.psql(t)
	s.provider.Stop()
	time.Sleep(4 * time.Second)
	hers.mustRun(t)
	hers.mustEnd(t)
	if r := s.alice.curfew(t, "status"); r.Code != 4 || !strings.Contains(r.Stderr, "not-revalidated") {
		t.Errorf("status: %+v", r)
	}
	s.provider = oidc.Start(t, s.options)
	harness.Eventually(t, "the provider to be found again", func() error { s.alice.mustLogin(t); return nil })
}
