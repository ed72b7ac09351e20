// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/client"
	"github.com/curfew-proxy/curfew/test/oidc"
)

// signInFor signs in for a service with the real client, in a browser that may be signed in at the provider already.
func signInFor(t *testing.T, a *agent, b *oidc.Browser, service string) (api.Session, error) {
	t.Helper()
	var browsing sync.WaitGroup
	open := func(url string) error {
		browsing.Go(func() {
			if page, err := b.Walk(t.Context(), url, nil); err != nil || page.URL.Path != "/signed-in" {
				t.Errorf("the browser ends at %v: %s, %v", page.URL, page.Body, err)
			}
		})
		return nil
	}
	sess, err := client.LoginForService(t.Context(), client.LoginConfig{Agent: a.connect(t), OpenBrowser: open, Progress: io.Discard}, service)
	browsing.Wait()
	return sess, err
}

// TestStepUpWithTheRealProvider: a user whom the provider would let in without another look has to sign in again, because
// the service wants that to be fresh.
func TestStepUpWithTheRealProvider(t *testing.T) {
	a, _ := withProvider(t)
	a.services = []api.Service{{Name: "vault", Require: &api.Require{MaxAge: api.Seconds(time.Second)}},
		{Name: "safe", Require: &api.Require{ACR: []string{"urn:example:phr"}}}}
	b := oidc.NewBrowser("alice", a.roots)
	first, err := signInFor(t, a, b, "db")
	if err != nil || !first.Identity.AuthTime.IsZero() { // it says that only where it is asked
		t.Fatalf("%+v, %v", first, err)
	}
	if same, err := signInFor(t, a, b, "db"); err != nil || same.ID != first.ID {
		t.Errorf("nothing is missing: session %v after %v, %v", same.ID, first.ID, err)
	}
	last := first
	for _, what := range []string{"prompt=login, as auth_time is not known", "max_age alone, as the agent grants a minute"} {
		for since := time.Now(); time.Since(since) < 2100*time.Millisecond; time.Sleep(100 * time.Millisecond) {
			// auth_time counts whole seconds, and the last has to be older than one
		}
		began := time.Now().Truncate(time.Second)
		next, err := signInFor(t, a, b, "vault")
		if err != nil || next.ID == last.ID || next.Identity.AuthTime.Before(began) {
			t.Fatalf("%s: authenticated at %v, the sign-in began at %v: %v", what, next.Identity.AuthTime, began, err)
		}
		last = next
	}
	if a.table.count() != 1 {
		t.Errorf("%d client keys, want the one that all sessions follow each other with", a.table.count())
	}
	var e *api.Error
	if _, err := signInFor(t, a, b, "safe"); !errors.As(err, &e) || !strings.Contains(e.Message, "not as safe asks: acr is") || a.counted(identity.EventStepUpRefused) != 1 {
		t.Errorf("a provider that has no such acr: %v", err)
	}
	if _, err := signInFor(t, a, b, "cache"); !errors.As(err, &e) || e.Code != api.CodeNotFound {
		t.Errorf("a service of others: %v", err)
	}
	if now, err := client.Status(t.Context(), a.connect(t)); err != nil || now.ID != last.ID || now.Ended != nil {
		t.Errorf("the session after refusals: %+v, %v", now, err)
	}
}

// The agent says nothing of services to somebody without a session.
func TestStepUpNeedsASession(t *testing.T) {
	a, _ := withProvider(t)
	c := newCaller(t, a)
	var started api.LoginStarted
	req := api.LoginRequest{Redirect: aRedirect, State: aState, Service: "db"}
	if status, code := c.call("POST", api.PathLogin, req, &started); status != 404 || code != api.CodeUnknownKey {
		t.Errorf("login: %d %s", status, code)
	}
}
