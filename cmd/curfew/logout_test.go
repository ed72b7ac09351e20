// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
)

// A sign-out says what the provider has made of it.
func TestLogoutSaysWhatTheProviderDid(t *testing.T) {
	s := newSignInServer(t)
	host, file := tokenHome(t, s)
	for _, tc := range []struct {
		said api.LoggedOut
		want string // beside that the user is signed out
	}{
		{api.LoggedOut{Revoked: true}, ""},
		{api.LoggedOut{}, "the identity provider has not confirmed yet; the agent goes on trying\n"},
		{api.LoggedOut{Irrevocable: true}, "the identity provider cannot revoke what it gave the agent, which has wiped it\n"},
	} {
		s.loggedOut = tc.said
		var out, errOut bytes.Buffer
		if code := run([]string{"login", host, "--accept-new", "--token-file", file}, &out, &errOut); code != 0 {
			t.Fatalf("login: %s", &errOut)
		}
		out.Reset()
		if code := run([]string{"logout"}, &out, &errOut); code != 0 || out.String() != "signed out of "+host+"\n"+tc.want {
			t.Errorf("logout: exit %d, %q; want %q more", code, &out, tc.want)
		}
	}
}
