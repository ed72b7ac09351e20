// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"encoding/base64"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// TestTokensElsewhere: a token that is good for one purpose is taken for no other, although one issuer has signed all with one
// key (RFC 8725, section 2.8). agent/config refuses an audience for machines that would make ID tokens theirs.
func TestTokensElsewhere(t *testing.T) {
	h := newHostile(t)
	p := h.provider(t, nil)
	_, ends, logouts := logoutServer(t, h, nil)
	d := newDesk(t, MachineConfig{Name: "same", Issuer: h.URL, Audience: "machines", Subjects: []string{"*"}, MaxAge: time.Hour,
		JWKSURI: h.URL + "/keys", GroupsClaim: "groups", AccessTokens: true})
	sign := func(typ string, change func(map[string]any)) string {
		claims := h.goodClaims()
		change(claims)
		header := map[string]any{"alg": "RS256", "kid": "k"}
		if typ != "" {
			header["typ"] = typ
		}
		return h.key.Sign(t, header, encodeJSON(t, claims))
	}
	logout := h.logoutClaims("j")
	good := map[string]string{
		"ID token": sign("JWT", func(map[string]any) {}),
		"machine":  sign("JWT", func(c map[string]any) { c["aud"] = "machines"; delete(c, "nonce") }),
		"logout":   sign("logout+jwt", func(c map[string]any) { clear(c); maps.Copy(c, logout) }),
	}
	bad := map[string]string{
		"refresh token":          "b3BhcXVl",
		"access token":           sign("at+jwt", func(c map[string]any) { c["aud"] = "us"; c["client_id"] = "us" }),
		"untyped access token":   sign("", func(c map[string]any) { c["aud"] = "https://api.example"; delete(c, "nonce") }),
		"ID token without nonce": sign("", func(c map[string]any) { delete(c, "nonce"); c["jti"], c["sid"] = "x", "s1" }),
		"untyped logout token":   sign("", func(c map[string]any) { clear(c); maps.Copy(c, logout); c["aud"] = "them" }),
	}
	all := maps.Clone(bad)
	maps.Copy(all, good)
	for name, token := range all {
		in, err := p.signedIn(t.Context(), p.meta.Load(), token, "access", testNonce)
		if (err == nil) != (name == "ID token") {
			t.Errorf("%s as an ID token: %+v, %v", name, in.Identity, err)
		}
		s, err := d.SignIn(t.Context(), session.Key{1}, pod, api.LoginToken{Token: token})
		if (err == nil) != (name == "machine") {
			t.Errorf("%s as a machine's: %+v, %v", name, s.Identity, err)
		}
		w := postLogout(logouts, token)
		if ended := len(ends.taken()); (w.Code == http.StatusOK) != (name == "logout") || (ended == 1) != (name == "logout") {
			t.Errorf("%s as a logout token: %d %s, %d ended", name, w.Code, w.Body, ended)
		}
	}
}

// TestTokensInABackup: a copy of the disk has no token in it for one who has not the key, which is not there; and a sealed one
// is of use for its own session only.
func TestTokensInABackup(t *testing.T) {
	_, d, r := refreshed(t, nil, nil)
	key := make([]byte, SealKeyLen) // that of refreshed
	backup := maps.Clone(d.disk)
	sealed := backup[session.ID{1}]
	if len(backup) != 1 || len(sealed) == 0 {
		t.Fatalf("the disk has %v", backup)
	}
	for _, secret := range []string{"refresh-token-0", "access-token-0"} {
		if bytes.Contains(sealed, []byte(secret)) || bytes.Contains(sealed, []byte(base64.StdEncoding.EncodeToString([]byte(secret)))) { // as JSON has bytes
			t.Errorf("%q is on the disk", secret)
		}
	}
	changed := slices.Clone(sealed)
	changed[len(changed)/2] ^= 1
	for name, tc := range map[string]struct {
		key  []byte
		disk map[session.ID][]byte
		want int // grants that come out
	}{
		"the key":              {key, maps.Clone(backup), 1},
		"another key":          {bytes.Repeat([]byte{1}, SealKeyLen), maps.Clone(backup), 0},
		"of another session":   {key, map[session.ID][]byte{{2}: sealed}, 0},
		"changed":              {key, map[session.ID][]byte{{1}: changed}, 0},
		"cut short":            {key, map[session.ID][]byte{{1}: sealed[:len(sealed)-1]}, 0},
		"shorter than a nonce": {key, map[session.ID][]byte{{1}: sealed[:3]}, 0},
		"empty":                {key, map[session.ID][]byte{{1}: nil}, 0},
	} {
		lost := 0
		v := NewVault(slog.New(slog.NewTextHandler(t.Output(), nil)), func(e string) {
			if e == EventSealLost {
				lost++
			}
		})
		disk := &register{disk: tc.disk}
		if _, err := v.Keep(tc.key, disk, r.Providers, all); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(v.held) != tc.want || lost != 1-tc.want || v.toRevoke() != 0 || len(disk.disk) != tc.want {
			t.Errorf("%s: %d came out, %d lost, %d to be revoked, %d left", name, len(v.held), lost, v.toRevoke(), len(disk.disk))
		}
	}
	v := NewVault(slog.New(slog.DiscardHandler), nil)
	if _, err := v.Keep(nil, &register{disk: backup}, r.Providers, all); err == nil {
		t.Error("no key at all was accepted")
	}
}

// Of a session that ended while the agent was down the tokens are revoked, and then gone from the disk: an agent that is stopped
// before it could goes on when it is back.
func TestTokensOfASessionThatEndedMeanwhile(t *testing.T) {
	h, d, r := refreshed(t, nil, nil)
	none := func(session.ID) bool { return false }
	again := func() *Vault {
		v := NewVault(r.Log, nil)
		if _, err := v.Keep(make([]byte, SealKeyLen), d, r.Providers, none); err != nil || len(v.held) != 0 || v.toRevoke() != 1 {
			t.Fatalf("%d held, %d to be revoked, %v", len(v.held), v.toRevoke(), err)
		}
		return v
	}
	if again(); len(d.disk) != 1 {
		t.Error("the disk has nothing before they are revoked")
	}
	stop := runVault(t, again())
	waitFor(t, func() bool { return h.revoked.Load() == 2 })
	stop()
	if len(d.disk) != 0 {
		t.Errorf("the disk has %v", d.disk)
	}
}
