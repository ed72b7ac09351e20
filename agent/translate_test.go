// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"reflect"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/identity"
)

// All that package identity can be told of a provider can be said in the configuration, and reaches it.
func TestProvidersAreTranslated(t *testing.T) {
	c := config.Default()
	c.URL = "https://agent.example/"
	c.Providers = []config.Provider{{Name: "corp", Issuer: "https://idp.example", ClientID: "curfew", ClientSecretFile: "secret", Scopes: []string{"groups"},
		GroupsClaim: "roles", CAFile: "ca", TrustedAudiences: []string{"project"}, Algorithms: []string{"ES256"}, FrontChannelLogout: true,
		PostLogoutRedirect: true, Device: true, Revalidate: config.Revalidate{Every: time.Minute, Grace: time.Hour}}}
	b := &bundle{Config: c, Files: map[string][]byte{"secret": []byte("s3cret\n"), "ca": []byte("PEM")}}
	want := identity.Config{Name: "corp", Issuer: "https://idp.example", ClientID: "curfew", ClientSecret: "s3cret", RedirectURL: "https://agent.example/callback/corp",
		Scopes: []string{"groups"}, GroupsClaim: "roles", CA: []byte("PEM"), TrustedAudiences: []string{"project"}, Algorithms: []string{"ES256"},
		FrontChannelLogout: true, PostLogoutRedirect: true, Device: true, Revalidation: identity.Revalidation{Every: time.Minute, Grace: time.Hour}}
	got := b.providers(c.URL)
	if len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Fatalf("%+v\nwant %+v", got, want)
	}
	for v, i := reflect.ValueOf(got[0]), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("%s cannot be configured", v.Type().Field(i).Name)
		}
	}
}
