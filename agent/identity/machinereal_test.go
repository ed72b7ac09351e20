// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/test/oidc"
)

// TestMachineWithTheRealProvider signs a machine in with what a certified provider gives it for its client credentials, whose
// keys are found through discovery: for our audience only, and this client only.
func TestMachineWithTheRealProvider(t *testing.T) {
	const audience = "https://agent.example/machines"
	a := listen(t)
	p := oidc.Start(t, oidc.Options{Clients: []oidc.Client{oidc.MachineClient("backup", clientSecret), oidc.MachineClient("other", clientSecret)}})
	a.machines = []identity.MachineConfig{{Name: "jobs", Issuer: p.Issuer, Audience: audience, Subjects: []string{"backup"}, MaxAge: time.Minute,
		GroupsClaim: "groups", AccessTokens: true}}
	a.serve(t)
	token := func(client, audience string) api.LoginToken {
		raw, err := p.MachineToken(t.Context(), client, clientSecret, audience)
		if err != nil {
			t.Fatal(err)
		}
		return api.LoginToken{Token: raw}
	}
	good, c := token("backup", audience), newCaller(t, a)
	var made api.Session
	if status, code := c.call("POST", api.PathLoginToken, good, &made); status != http.StatusCreated || made.Identity.Subject != "backup" || made.Identity.Issuer != p.Issuer {
		t.Fatalf("sign-in: %d %s %+v", status, code, made)
	}
	for name, tc := range map[string]struct {
		req  api.LoginToken
		code string
	}{
		"for somebody else": {token("backup", "https://other.example/"), api.CodeTokenRefused},
		"another client":    {token("other", audience), api.CodeForbidden},
	} {
		if status, code := newCaller(t, a).call("POST", api.PathLoginToken, tc.req, nil); code != tc.code {
			t.Errorf("%s: %d %s, want %s", name, status, code, tc.code)
		}
	}
}
