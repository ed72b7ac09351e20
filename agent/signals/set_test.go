// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/test/jwt"
)

func TestSETs(t *testing.T) {
	g := newRig(t)
	r := g.receiver()
	set := func(name string, v any) func(object, object) { return func(c, _ object) { c[name] = v } }
	del := func(name string) func(object, object) { return func(c, _ object) { delete(c, name) } }
	now := g.clock.now().Unix()
	for _, tc := range []struct {
		name   string
		change func(claims, header object)
		code   string // of the refusal; empty: accepted
		want   string // in the error
	}{
		{"good", func(object, object) {}, "", ""},
		{"audience in an array", set("aud", []string{us}), "", ""},
		{"typ with application/", func(_, h object) { h["typ"] = "application/secevent+jwt" }, "", ""},
		{"typ in capitals", func(_, h object) { h["typ"] = "SECEVENT+JWT" }, "", ""},
		{"iat a little ahead", set("iat", now+59), "", ""},
		{"as old as may be", set("iat", now-24*3600+60), "", ""},
		{"member that is not known", set("https://idp.example/more", object{"a": 1}), "", ""},
		{"with a transaction", set("txn", "1"), "", ""},
		{"nbf is past", set("nbf", now), "", ""},

		{"no typ", func(_, h object) { delete(h, "typ") }, codeRequest, "type"},
		{"typ JWT", func(_, h object) { h["typ"] = "JWT" }, codeRequest, "type"},
		{"typ of a logout token", func(_, h object) { h["typ"] = "logout+jwt" }, codeRequest, "type"},
		{"typ of an access token", func(_, h object) { h["typ"] = "at+jwt" }, codeRequest, "type"},
		{"alg none", func(_, h object) { h["alg"] = "none" }, codeRequest, "algorithm"},
		{"alg HS256", func(_, h object) { h["alg"] = "HS256" }, codeRequest, "algorithm"},
		{"unknown kid", func(_, h object) { h["kid"] = "x" }, codeKey, "signature"},
		{"critical header", func(_, h object) { h["crit"] = []string{"x"}; h["x"] = 1 }, codeKey, "signature"},
		{"another issuer", set("iss", provider), codeIssuer, "iss"},
		{"no issuer", del("iss"), codeIssuer, "iss"},
		{"issuer with a slash more", set("iss", g.issuer()+"/"), codeIssuer, "iss"},
		{"issuer is a number", set("iss", 1), codeRequest, "iss"},
		{"another audience", set("aud", "them"), codeAudience, "aud"},
		{"audience in other case", set("aud", strings.ToUpper(us)), codeAudience, "aud"},
		{"further audience", set("aud", []string{us, "them"}), codeAudience, "aud"},
		{"no audience", del("aud"), codeAudience, "aud"},
		{"no iat", del("iat"), codeRequest, "iat is missing"},
		{"iat is null", set("iat", nil), codeRequest, "iat is missing"},
		{"iat is text", set("iat", "now"), codeRequest, "not a date"},
		{"iat in the future", set("iat", now+90), codeRequest, "in the future"},
		{"too old", set("iat", now-24*3600-2), codeRequest, "more than 24h"},
		{"nbf in the future", set("nbf", now+90), codeRequest, "nbf"},
		{"exp", set("exp", now+60), codeRequest, "claim exp"},
		{"exp is null", set("exp", nil), codeRequest, "claim exp"},
		{"sub", set("sub", "alice"), codeRequest, "claim sub"},
		{"no jti", del("jti"), codeRequest, "jti"},
		{"empty jti", set("jti", ""), codeRequest, "jti"},
		{"jti is a number", set("jti", 1), codeRequest, "jti"},
		{"long jti", set("jti", strings.Repeat("j", 257)), codeRequest, "jti"},
		{"jti with a line break", set("jti", "a\nb"), codeRequest, "jti"},
		{"no events", del("events"), codeRequest, "events"},
		{"no event", set("events", object{}), codeRequest, "0 events"},
		{"events is an array", set("events", []string{revoked}), codeRequest, "events"},
		{"event is text", set("events", object{revoked: "x"}), codeRequest, "event"},
		{"event is null", set("events", object{revoked: nil}), codeRequest, "event"},
		{"many events", set("events", object{"a": object{}, "b": object{}, "c": object{}, "d": object{}, "e": object{}, "f": object{}, "g": object{}, "h": object{}, "i": object{}}), codeRequest, "9 events"},
		{"ISS beside iss", set("ISS", "x"), codeRequest, "same but for case"},
		{"JTI beside jti", set("JTI", "x"), codeRequest, "same but for case"},
		{"event in two cases", set("events", object{revoked: object{}, strings.ToUpper(revoked): object{}}), codeRequest, "same but for case"},
		{"member of an event in two cases", set("events", object{revoked: object{"subject": 1, "Subject": 2}}), codeRequest, "same but for case"},
		{"too long", set("x", strings.Repeat("a", jose.MaxToken)), codeRequest, "longer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			claims, header := g.claims(revoked, alice(), nil), object{"alg": "RS256", "kid": "k", "typ": "secevent+jwt"}
			tc.change(claims, header)
			err := r.take(t.Context(), g.key.Sign(t, header, encode(t, claims)), "test")
			var refused *refusal
			errors.As(err, &refused)
			did, counted := g.sessions.taken(), g.counts.all()
			if tc.code == "" {
				if err != nil || !slices.Equal(did, []string{"end sub alice at " + provider}) || counted != "event-ended:1" {
					t.Errorf("%v, did %q, counted %s", err, did, counted)
				}
				return
			}
			if refused == nil || refused.code != tc.code || !strings.Contains(err.Error(), tc.want) || len(did) != 0 || counted != "event-refused:1" {
				t.Errorf("%v (%+v), want %s %q; did %q, counted %s", err, refused, tc.code, tc.want, did, counted)
			}
		})
	}
	if logs := g.logs.String(); strings.Contains(logs, "eyJ") || !strings.Contains(logs, "jti=jti-1 ") || !strings.Contains(logs, "jti=jti-15 ") || !strings.Contains(logs, "issuer="+g.issuer()) {
		t.Errorf("a token is in the log, or what should be is not:\n%s", logs)
	}
}

func TestForgedSETs(t *testing.T) {
	g := newRig(t)
	r := g.receiver()
	header, payload := object{"alg": "RS256", "kid": "k", "typ": "secevent+jwt"}, encode(t, g.claims(revoked, alice(), nil))
	good := g.key.Sign(t, header, payload)
	for name, token := range map[string]string{
		"another's key":          jwt.NewKey(t, "k").Sign(t, header, payload),
		"the public key as HMAC": g.key.Confuse(t, object{"alg": "HS256", "kid": "k", "typ": "secevent+jwt"}, payload),
		"no signature":           good[:strings.LastIndexByte(good, '.')+1],
		"another payload":        strings.Replace(good, ".ey", ".eZ", 1),
		"duplicate claim":        g.key.Sign(t, header, strings.TrimSuffix(payload, "}")+`,"jti":"x"}`),
		"more behind":            g.key.Sign(t, header, payload+"{}"),
		"not UTF-8":              g.key.Sign(t, header, strings.Replace(payload, "alice", "\xff", 1)),
		"not a token":            "x",
		"empty":                  "",
		"JSON form":              `{"payload":"e30","protected":"e30","signature":""}`,
		"line break":             good + "\n",
		"8 MiB":                  strings.Repeat("a", 8<<20),
	} {
		if err := r.take(t.Context(), token, "test"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if did := g.sessions.taken(); len(did) != 0 {
		t.Errorf("did %q", did)
	}
	if err := r.take(t.Context(), good, "test"); err != nil {
		t.Errorf("the good one, afterwards: %v", err)
	}
}

// Keys are rotated just before the event is signed, and gone a moment: nothing is lost by either.
func TestKeysOfTransmitter(t *testing.T) {
	g := newRig(t)
	r := g.receiver()
	first := g.key
	if err := r.take(t.Context(), g.sign(g.claims(revoked, alice(), nil)), "test"); err != nil {
		t.Fatal(err)
	}
	g.key = jwt.NewKey(t, "k2")
	token := g.key.Sign(t, object{"alg": "RS256", "kid": "k2", "typ": "secevent+jwt"}, encode(t, g.claims(revoked, alice(), nil)))
	if err := r.take(t.Context(), token, "test"); err != nil {
		t.Errorf("after rotation: %v", err)
	}
	old := first.Sign(t, object{"alg": "RS256", "kid": "k", "typ": "secevent+jwt"}, encode(t, g.claims(revoked, alice(), nil)))
	var refused *refusal
	if err := r.take(t.Context(), old, "test"); !errors.As(err, &refused) || refused.code != codeKey {
		t.Errorf("by a key that was removed: %v", err)
	}
	g.counts.all()
	g.server.Close()
	g.clock.add(2 * time.Hour)
	if err := r.take(t.Context(), g.sign(g.claims(revoked, alice(), nil)), "test"); !errors.Is(err, jose.ErrNoKeys) || errors.As(err, &refused) && g.counts.of(EventUnavailable) != 1 {
		t.Errorf("keys out of reach: %v; want it to be tried again", err)
	}
}

// A transmitter's metadata that is somebody else's gives no keys.
func TestForeignMetadata(t *testing.T) {
	g := newRig(t)
	for name, change := range map[string]func(){
		"issuer":  func() { g.metadata["issuer"] = g.server.URL },
		"no keys": func() { delete(g.metadata, "jwks_uri") },
		"http":    func() { g.metadata["jwks_uri"] = "http://keys.example/" },
	} {
		g.metadata = object{"issuer": g.issuer(), "jwks_uri": g.server.URL + "/keys"}
		change()
		if err := g.receiver().take(t.Context(), g.sign(g.claims(revoked, alice(), nil)), "test"); !errors.Is(err, jose.ErrNoKeys) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := g.receiver(func(t *Transmitter) { t.JWKSURI = g.server.URL + "/keys" })
	if err := r.take(t.Context(), g.sign(g.claims(revoked, alice(), nil)), "test"); err != nil {
		t.Errorf("with keys that are configured: %v", err)
	}
}
