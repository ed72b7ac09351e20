// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"net/netip"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/policy"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Users see the services that another sign-in would open to them, with what is missing, and no others.
func TestServicesThatAskForMore(t *testing.T) {
	c := config.Default()
	c.Services = []config.Service{
		{Name: "db", Allow: `true`},
		{Name: "vault", Allow: `true`, Require: config.Require{ACR: []string{"mfa"}, MaxAge: 15 * time.Minute}},
		{Name: "safe", Allow: `false`, Require: config.Require{ACR: []string{"mfa"}}},
	}
	b := &bundle{Config: c}
	set, err := policy.NewSet(b.rules(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s := &signIns{config: func() *bundle { return b }, authorise: set.Authorize}
	for _, tc := range []struct {
		who     session.Identity
		missing bool
	}{
		{session.Identity{}, true},
		{session.Identity{ACR: "mfa"}, true},
		{session.Identity{ACR: "mfa", AuthTime: time.Now()}, false},
	} {
		list := s.ServicesFor(session.Session{Identity: tc.who}, netip.AddrPort{})
		if len(list) != 2 || list[0].Name != "db" || list[0].Require != nil || list[0].Missing != "" {
			t.Fatalf("%+v: %+v", tc.who, list)
		}
		if v := list[1]; v.Name != "vault" || (v.Missing != "") != tc.missing || v.Require == nil || v.Require.MaxAge.Duration() != 15*time.Minute {
			t.Errorf("%+v: %+v", tc.who, v)
		}
	}
}
