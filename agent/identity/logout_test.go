// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"log/slog"
	"testing"

	"github.com/curfew-proxy/curfew/agent/session"
)

// TestLogoutSaysWhatBecameOfTheTokens keeps out an agent that says that it goes on trying where there is nothing to try.
func TestLogoutSaysWhatBecameOfTheTokens(t *testing.T) {
	for name, tc := range map[string]struct {
		change               func(*hostile)
		revoked, irrevocable bool
	}{
		"revoked":       {func(*hostile) {}, true, false},
		"down":          {func(h *hostile) { h.refuse.Store(1) }, false, false},
		"no endpoint":   {func(h *hostile) { h.discovery = func(doc map[string]any) { delete(doc, "revocation_endpoint") } }, false, true},
		"not such ones": {func(h *hostile) { h.cannot = []string{"refresh_token"} }, false, true},
	} {
		h, log := newHostile(t), slog.New(slog.NewTextHandler(t.Output(), nil))
		tc.change(h)
		table := &sessionsOfKeys{byKey: map[session.Key]session.Session{{1}: {ID: session.ID{1}, Key: session.Key{1}}}}
		l := NewLogins(LoginsConfig{Sessions: table, Vault: NewVault(log, nil), Log: log})
		refresh := []byte("refresh")
		l.cfg.Vault.Put(session.ID{1}, h.provider(t, nil), Tokens{Refresh: refresh, Access: []byte("access")})
		_, out, err := l.Logout(t.Context(), session.Key{1}, false)
		if err != nil || out.Revoked != tc.revoked || out.Irrevocable != tc.irrevocable {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		if wiped := refresh[0] == 0; wiped != (tc.revoked || tc.irrevocable) {
			t.Errorf("%s: wiped %v", name, wiped)
		}
	}
}
