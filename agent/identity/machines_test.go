// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/test/jwt"
)

type object = map[string]any

// The subject, the audience and the times of a token decide; each case is one that must not be let in, or must.
func TestMachineTokens(t *testing.T) {
	c := newCluster(t)
	d := newDesk(t, c.config())
	now := time.Now().Unix()
	set := func(k string, v any) func(object, object) { return func(c, _ object) { c[k] = v } }
	del := func(k string) func(object, object) { return func(c, _ object) { delete(c, k) } }
	head := func(k string, v any) func(object, object) { return func(_, h object) { h[k] = v } }
	for _, tc := range []struct {
		name       string
		change     func(claims, header object)
		code, want string // of the error; empty: accepted
	}{
		{"good", nil, "", ""},
		{"typed", head("typ", "JWT"), "", ""},
		{"audience as text", set("aud", "curfew"), "", ""},
		{"iat a little ahead", set("iat", now+30), "", ""},
		{"almost too old", set("iat", now-3500), "", ""},
		{"no nbf", del("nbf"), "", ""},
		{"alg none", head("alg", "none"), api.CodeTokenRefused, "algorithm"},
		{"alg HS256", head("alg", "HS256"), api.CodeTokenRefused, "algorithm"},
		{"access token", head("typ", "at+jwt"), api.CodeTokenRefused, "type"},
		{"logout token", head("typ", "logout+jwt"), api.CodeTokenRefused, "type"},
		{"security event", head("typ", "secevent+jwt"), api.CodeTokenRefused, "type"},
		{"unknown kid", head("kid", "x"), api.CodeTokenRefused, "signature"},
		{"other issuer", set("iss", clusterIssuer+"/"), api.CodeChooseMachine, "not taken here"},
		{"no issuer", del("iss"), api.CodeChooseMachine, "not taken here"},
		{"issuer is a list", set("iss", []string{clusterIssuer}), api.CodeTokenRefused, "iss"},
		{"other audience", set("aud", "vault"), api.CodeTokenRefused, "aud"},
		{"no audience", del("aud"), api.CodeTokenRefused, "aud"},
		{"somebody else too", set("aud", []string{"curfew", "vault"}), api.CodeTokenRefused, "not a trusted audience"},
		{"other namespace", set("sub", "system:serviceaccount:test:backup"), api.CodeForbidden, "may not sign in"},
		{"beyond the segment", set("sub", "system:serviceaccount:prod:a:b"), api.CodeForbidden, "may not sign in"},
		{"something before", set("sub", "x:system:serviceaccount:prod:a"), api.CodeForbidden, "may not sign in"},
		{"no sub", del("sub"), api.CodeTokenRefused, "sub is missing"},
		{"line break in sub", set("sub", "system:serviceaccount:prod:a\n"), api.CodeTokenRefused, "not printable"},
		{"expired", set("exp", now-1), api.CodeTokenRefused, "expired"},
		{"no exp", del("exp"), api.CodeTokenRefused, "exp is missing"},
		{"no iat", del("iat"), api.CodeTokenRefused, "iat is missing"},
		{"iat in the future", set("iat", now+3600), api.CodeTokenRefused, "in the future"},
		{"too old", set("iat", now-3700), api.CodeTokenRefused, "more than 1h"},
		{"not yet", set("nbf", now+3600), api.CodeTokenRefused, "not good before"},
		{"SUB beside sub", set("SUB", "root"), api.CodeTokenRefused, "same but for case"},
		{"jti is a number", set("jti", 7), api.CodeTokenRefused, "jti"},
		{"groups is an object", set("groups", object{"a": 1}), api.CodeTokenRefused, "groups"},
		{"too long", set("x", strings.Repeat("a", jose.MaxToken)), api.CodeTokenRefused, "compact form"},
	} {
		d.failures = jose.FailureLimit{}
		s, err := d.present(t, 1, c.token(t, tc.change))
		if tc.code != "" {
			wantCode(t, tc.name, err, tc.code, tc.want)
		} else if err != nil || s.Method != "token" || s.Identity.Issuer != clusterIssuer || s.Identity.Subject != "system:serviceaccount:prod:backup" {
			t.Errorf("%s: %+v, %v", tc.name, s, err)
		}
	}
	for name, token := range map[string]string{
		"HS256 with the public key": c.key.Confuse(t, object{"alg": "HS256", "kid": "k"}, `{"iss":"`+clusterIssuer+`"}`),
		"another's key":             newCluster(t).token(t, nil),
		"8 MiB":                     strings.Repeat("a", 8<<20),
		"empty":                     "",
		"no token":                  "Bearer abc",
	} {
		if _, err := d.present(t, 1, token); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A stolen token is worth nothing: it makes sessions for the first key only.
func TestMachineTokenReplayed(t *testing.T) {
	c := newCluster(t)
	for name, change := range map[string]func(object, object){"with jti": func(c, _ object) { c["jti"] = "1" }, "without jti": nil} {
		d := newDesk(t, c.config())
		token := c.token(t, change)
		if _, err := d.present(t, 1, token); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := d.present(t, 1, token); err != nil {
			t.Errorf("%s: the same key again: %v", name, err)
		}
		_, err := d.present(t, 2, token)
		wantCode(t, name, err, api.CodeTokenUsed, "another client key")
		if d.counts[EventMachineReplayed] != 1 || d.counts[EventMachineCompleted] != 2 {
			t.Errorf("%s: counts %v", name, d.counts)
		}
	}
}

// TestMachineTokenRewritten keeps out a replay under another name: the same token in other letters.
func TestMachineTokenRewritten(t *testing.T) {
	c := newCluster(t)
	d := newDesk(t, c.config())
	token := c.token(t, nil)
	if _, err := d.present(t, 1, token); err != nil {
		t.Fatal(err)
	}
	last := len(token) - 1
	for _, again := range []string{token + "\n", strings.Replace(token, ".", ".\r\n", 1), token[:last] + string(token[last]+1), token + "="} {
		if _, err := d.present(t, 2, again); err == nil {
			t.Error("a token that was used was taken in another form")
		}
	}
	if a, b := credentialOf("i", "", "h.p.s"), credentialOf("i", "", "h.p.t"); a != b {
		t.Error("another signature makes another token")
	}
	if credentialOf("i", "1", "h.p.s") == credentialOf("j", "1", "h.p.s") || credentialOf("i", "1", "h.p.s") == credentialOf("i", "2", "h.p.s") {
		t.Error("different tokens are one")
	}
}

// TestKilledMachineStaysOut: a machine tries again by itself, and must not come back with the token that it has.
func TestKilledMachineStaysOut(t *testing.T) {
	c := newCluster(t)
	d := newDesk(t, c.config())
	token := c.token(t, func(c, _ object) { c["iat"] = time.Now().Unix() - 10 })
	if _, err := d.present(t, 1, token); err != nil {
		t.Fatal(err)
	}
	for reason, out := range map[session.Reason]bool{
		session.ReasonKilled: true, session.ReasonLogout: true, session.ReasonProvider: true, session.ReasonPolicy: true, session.ReasonWatermark: true, session.ReasonLost: true,
		session.ReasonAbsolute: false, session.ReasonIdle: false, session.ReasonSuperseded: false, session.ReasonUnavailable: false,
	} {
		d.table.end(session.Key{1}, session.End{Reason: reason, At: time.Now()})
		_, err := d.present(t, 1, token)
		if out {
			wantCode(t, string(reason), err, api.CodeTokenUsed, string(reason))
		} else if err != nil {
			t.Errorf("%s: %v", reason, err)
		}
	}
	d.table.end(session.Key{1}, session.End{Reason: session.ReasonKilled, At: time.Now().Add(-time.Minute)})
	if _, err := d.present(t, 1, c.token(t, nil)); err != nil {
		t.Errorf("a token from after the kill: %v", err)
	}
}

// A fault it keeps out: where the issuer's clock is ahead, the token that a killed machine had was issued after the kill, and
// let it in again.
func TestKilledMachineOfAClockThatIsAhead(t *testing.T) {
	c := newCluster(t)
	d := newDesk(t, c.config())
	ahead := func(c, _ object) { c["iat"] = time.Now().Unix() + 50 }
	token := c.token(t, ahead)
	if _, err := d.present(t, 1, token); err != nil {
		t.Fatal(err)
	}
	d.table.end(session.Key{1}, session.End{Reason: session.ReasonKilled, At: time.Now()})
	_, err := d.present(t, 1, token)
	wantCode(t, "the token that it had", err, api.CodeTokenUsed, "killed")
	if _, err := d.present(t, 1, c.token(t, func(c, h object) { ahead(c, h); c["jti"] = "next" })); err != nil {
		t.Errorf("a newer one: %v", err)
	}
}

func TestMachineSessionsEndWithTheToken(t *testing.T) {
	c := newCluster(t)
	exp := time.Unix(time.Now().Unix()+600, 0)
	for outlive, want := range map[bool]time.Time{false: exp, true: {}} {
		cfg := c.config()
		cfg.OutliveToken = outlive
		d := newDesk(t, cfg)
		if _, err := d.present(t, 1, c.token(t, func(c, _ object) { c["exp"] = exp.Unix() })); err != nil || !d.table.last.NotAfter.Equal(want) || d.table.last.Credential.IsZero() {
			t.Errorf("outlive %v: %v, %+v; want not after %v", outlive, err, d.table.last, want)
		}
	}
}

func TestMachineRules(t *testing.T) {
	c := newCluster(t)
	broken := errors.New("no such key: SECRET-RULE")
	for _, tc := range []struct {
		name  string
		cfg   func(*MachineConfig)
		admit bool
	}{
		{"allow alone", func(c *MachineConfig) {
			c.Subjects = nil
			c.Allow = func(v object) (bool, error) { return v["kubernetes.io"].(object)["namespace"] == "prod", nil }
		}, true},
		{"allow says no", func(c *MachineConfig) { c.Allow = func(object) (bool, error) { return false, nil } }, false},
		{"allow fails", func(c *MachineConfig) { c.Allow = func(object) (bool, error) { return true, broken } }, false},
		{"subject says no", func(c *MachineConfig) {
			c.Subjects = []string{"nobody"}
			c.Allow = func(object) (bool, error) { return true, nil }
		}, false},
		{"exact subject", func(c *MachineConfig) { c.Subjects = []string{"x", "system:serviceaccount:prod:backup"} }, true},
		{"not a regexp", func(c *MachineConfig) { c.Subjects = []string{"system.serviceaccount.prod.backup", ".*", "[a-z:]+"} }, false},
		{"stars", func(c *MachineConfig) { c.Subjects = []string{"system:*:*:back*p"} }, true},
		{"one star", func(c *MachineConfig) { c.Subjects = []string{"*"} }, false},
	} {
		cfg := c.config()
		tc.cfg(&cfg)
		d := newDesk(t, cfg)
		_, err := d.present(t, 1, c.token(t, nil))
		if tc.admit {
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		wantCode(t, tc.name, err, api.CodeForbidden, "may not sign in")
		if d.counts[EventMachineDenied] != 1 || strings.Contains(fmt.Sprintf("%+v", err), "SECRET") {
			t.Errorf("%s: %v, told %v", tc.name, d.counts, err)
		}
	}
}

func TestMachineAccessTokens(t *testing.T) {
	c := newCluster(t)
	cfg := c.config()
	cfg.AccessTokens = true
	d := newDesk(t, cfg)
	for typ, ok := range map[string]bool{"at+jwt": true, "application/at+jwt": true, "JWT": true, "logout+jwt": false} {
		if _, err := d.present(t, 1, c.token(t, func(_, h object) { h["typ"] = typ })); (err == nil) != ok {
			t.Errorf("%s: %v", typ, err)
		}
	}
}

func TestMachinesAreChosen(t *testing.T) {
	c := newCluster(t)
	one, two := c.config(), c.config()
	two.Name, two.Audience = "other", "elsewhere"
	d := newDesk(t, one, two)
	ask := func(name string) error {
		_, err := d.SignIn(t.Context(), session.Key{1}, pod, api.LoginToken{Token: c.token(t, nil), Machine: name})
		return err
	}
	wantCode(t, "no name", ask(""), api.CodeChooseMachine, "several machines")
	wantCode(t, "wrong name", ask("x\x1b"), api.CodeChooseMachine, "no machine \"x\"")
	wantCode(t, "the other", ask("other"), api.CodeTokenRefused, "aud")
	if err := ask("prod"); err != nil {
		t.Errorf("by name: %v", err)
	}
	take, err := d.Prepare([]MachineConfig{one})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "while a reload is prepared", ask(""), api.CodeChooseMachine, "several machines")
	if take(); ask("") != nil {
		t.Errorf("after a reload: %v", ask(""))
	}
	bad := one
	bad.Audience = ""
	if _, err := d.Prepare([]MachineConfig{bad}); err == nil || !strings.Contains(err.Error(), "machine prod") || ask("") != nil {
		t.Errorf("after a bad reload: %v, %v", err, ask(""))
	}
}

func TestMachineKeysOutOfReach(t *testing.T) {
	c := newCluster(t)
	c.refused.Store(true)
	d := newDesk(t, c.config())
	_, err := d.present(t, 1, c.token(t, nil))
	wantCode(t, "keys refused", err, api.CodeUnavailable, "keys")
	if strings.Contains(err.Error(), c.URL) {
		t.Errorf("the answer tells of our network: %v", err)
	}
	c.refused.Store(false)
	if _, err := d.present(t, 1, c.token(t, nil)); err != nil {
		t.Errorf("when the keys are there: %v", err)
	}
	untrusted := c.config()
	untrusted.CA = nil
	_, err = newDesk(t, untrusted).present(t, 1, c.token(t, nil))
	wantCode(t, "an authority that is not known", err, api.CodeUnavailable, "keys")
}

func TestMachineSessionNotMade(t *testing.T) {
	c := newCluster(t)
	for _, tc := range []struct {
		err               error
		event, code, want string
	}{
		{session.ErrTooMany, EventMachineFailed, api.CodeTooMany, "too many"},
		{fmt.Errorf("client key: %w", session.ErrKeyInUse), EventMachineFailed, api.CodeForbidden, "somebody else"},
		{fmt.Errorf("create session: %w: killed", session.ErrWatermark), EventMachineReplayed, api.CodeTokenUsed, "were ended after"},
		{fmt.Errorf("create session: %w: provider-revoked", session.ErrNotFresh), EventMachineReplayed, api.CodeTokenUsed, "does not say that its user was authenticated since"},
	} {
		d := newDesk(t, c.config())
		d.table.fail = tc.err
		_, err := d.present(t, 1, c.token(t, nil))
		var e *api.Error
		if !errors.As(err, &e) || e.Code != tc.code || !strings.Contains(e.Message, tc.want) || e.Hint == "" || d.counts[tc.event] != 1 {
			t.Errorf("%v: %v, %v", tc.err, err, d.counts)
		}
	}
}

func TestMachineFailuresAreLimited(t *testing.T) {
	c := newCluster(t)
	d := newDesk(t, c.config())
	now := time.Now()
	d.now = func() time.Time { return now }
	for range 1000 {
		if _, err := d.SignIn(t.Context(), session.Key{1}, pod, api.LoginToken{Token: "x"}); err == nil {
			t.Fatal("accepted")
		}
	}
	if n := d.counts[EventMachineRefused]; n > 100 || d.counts[EventMachineLimited] != 1000-n {
		t.Errorf("counts %v", d.counts)
	}
	if _, err := d.SignIn(t.Context(), session.Key{2}, pod.Next(), api.LoginToken{Token: c.token(t, nil)}); err != nil {
		t.Errorf("another source has to suffer: %v", err)
	}
}

// FuzzSubjectPattern: a * never reaches over a separator.
func FuzzSubjectPattern(f *testing.F) {
	f.Add("a:*:c", "b")
	f.Add("*", "a:b")
	f.Add("[", "\n")
	f.Fuzz(func(t *testing.T, pattern, filling string) {
		p, err := subjectPattern(pattern)
		if err != nil {
			return
		}
		subject := strings.ReplaceAll(pattern, "*", filling)
		within := !strings.ContainsAny(filling, ":/") && utf8.ValidString(filling) || !strings.Contains(pattern, "*")
		if within && !p.MatchString(subject) {
			t.Fatalf("%q does not match %q", pattern, subject)
		}
		if p.MatchString(subject) && strings.Count(subject, ":") != strings.Count(pattern, ":") {
			t.Fatalf("%q matches %q", pattern, subject)
		}
	})
}

// FuzzMachineClaims: whatever an issuer signs, what is let in is what any other reader would see in it.
func FuzzMachineClaims(f *testing.F) {
	key := jwt.NewKey(f, "k")
	now := time.Unix(1_000_000, 0)
	m, err := newMachine(MachineConfig{Name: "m", Issuer: "i", Audience: "us", MaxAge: time.Hour, GroupsClaim: "groups", JWKS: jwt.Set(key),
		Allow: func(object) (bool, error) { return true, nil }}, func() time.Time { return now })
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		`{"iss":"i","aud":"us","sub":"a","iat":999999,"exp":1000001}`, `{"iss":"i","aud":["us"],"sub":"a","iat":999999.5,"exp":1e6,"jti":"x"}`,
		`{"iss":"i","ISS":"j","aud":"us","sub":"a","iat":999999,"exp":1000001}`, `{"iss":"i","aud":"us","sub":"a","iat":1,"exp":1000001}`, `[]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		p, err := m.check(t.Context(), key.Sign(t, object{"alg": "RS256"}, string(payload)), now)
		if err != nil {
			return
		}
		var loose struct {
			Iss, Sub string
			Exp, Iat float64
		}
		if err := json.Unmarshal(payload, &loose); err != nil || loose.Iss != "i" || loose.Sub != p.identity.Subject || loose.Exp <= 1_000_000 || loose.Iat < 1_000_000-3600 {
			t.Fatalf("%q was accepted: %+v, %v", payload, p, err)
		}
	})
}
