// SPDX-License-Identifier: Apache-2.0

package session

import (
	"strings"
	"testing"
	"time"
)

func TestRequirement(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	ago := func(d time.Duration) Identity { return Identity{AuthTime: now.Add(-d)} }
	fresh := Requirement{MaxAge: 15 * time.Minute}
	for _, tc := range []struct {
		name string
		r    Requirement
		id   Identity
		want string // part of what is missing; empty: nothing
	}{
		{"nothing asked, nothing there", Requirement{}, Identity{}, ""},
		{"acr", Requirement{ACR: []string{"mfa", "phr"}}, Identity{ACR: "phr"}, ""},
		{"other acr", Requirement{ACR: []string{"mfa", "phr"}}, Identity{ACR: "pwd"}, `acr is "pwd", not one of mfa, phr`},
		{"acr in another case", Requirement{ACR: []string{"mfa"}}, Identity{ACR: "MFA"}, "acr"},
		{"no acr", Requirement{ACR: []string{"mfa"}}, Identity{}, `acr is ""`},
		{"all of amr", Requirement{AMR: []string{"otp", "pwd"}}, Identity{AMR: []string{"pwd", "otp", "mfa"}}, ""},
		{"one of amr", Requirement{AMR: []string{"otp", "pwd"}}, Identity{AMR: []string{"pwd"}}, "amr lacks otp"},
		{"no amr", Requirement{AMR: []string{"otp", "pwd"}}, Identity{}, "amr lacks otp; amr lacks pwd"},
		{"fresh", fresh, ago(time.Minute), ""},
		{"just fresh", fresh, ago(15 * time.Minute), ""},
		{"within the leeway", fresh, ago(15*time.Minute + AuthLeeway), ""},
		{"old", fresh, ago(15*time.Minute + AuthLeeway + time.Second), "16m1s ago, more than 15m0s"},
		{"no auth_time", fresh, Identity{}, "auth_time"},
		{"auth_time of 1970", fresh, Identity{AuthTime: time.Unix(0, 0)}, "ago"},
		{"the provider's clock is ahead", fresh, ago(-AuthLeeway), ""},
		{"from the future", fresh, ago(-AuthLeeway - time.Second), "future"},
		{"old, but nobody asks", fresh.Ageless(), ago(time.Hour), ""},
		{"everything", Requirement{ACR: []string{"mfa"}, AMR: []string{"otp"}, MaxAge: time.Hour}, Identity{}, `acr is "", not one of mfa; amr lacks otp; the provider`},
	} {
		got := tc.r.Missing(tc.id, now)
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: missing %q, want %q", tc.name, got, tc.want)
		}
	}
	if !fresh.Ageless().Empty() || fresh.Empty() {
		t.Error("what is empty?")
	}
}
