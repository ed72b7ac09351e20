// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// FuzzSET: of what a transmitter may have signed, only that has an effect which is a SET, and on no others than its users.
func FuzzSET(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	cfg := Transmitter{Issuer: other, Issuers: []string{provider}, MaxAge: time.Hour}
	r := newSetReader(&cfg, nil, func() time.Time { return now })
	who := subjectsOf(&cfg)
	for _, seed := range []string{
		`{"iat":1700000000,"jti":"1","sub_id":{"format":"iss_sub","iss":"https://idp.example","sub":"a"},"events":{"` + revoked + `":{}}}`,
		`{"iat":1700000000,"jti":"1","events":{"` + revoked + `":{"subject":{"format":"email","email":"a"},"reason_user":{"en":"x"}}}}`,
		`{"iat":1700000000,"jti":"1","events":{"` + caepTypes + `device-compliance-change":{"current_status":"compliant"}}}`,
		`{"iat":1700000000,"jti":"1","exp":1,"events":{"` + typeVerification + `":{"state":"x"}}}`,
		`{"iat":1700000000,"jti":"1","JTI":"2","events":{}}`, `{"iat":"x","events":[]}`, `{}`, `[]`, "\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := jose.ParseClaims(payload)
		if err != nil {
			return
		}
		var s set
		if errors.Join(r.checkInstants(c), r.checkOthers(c), s.readClaims(c)) != nil {
			return
		}
		if c["exp"] != nil || c["sub"] != nil || s.jti == "" || len(s.events) == 0 || len(s.names()) > maxEvents*(jose.MaxText+2) {
			t.Fatalf("%q got through", payload)
		}
		v, err := s.judge(&cfg, who, []string{"tenant"})
		if err == nil && (v.order == leave) != (len(v.whom) == 0) {
			t.Fatalf("%q: order %v about %v", payload, v.order, v.whom)
		}
		checkMatches(t, v.whom)
		if end := v.because(&cfg, now); len(end.Message) > jose.MaxText || !jose.IsPrintable(end.Message) {
			t.Fatalf("%q: users are told %q", payload, end.Message)
		}
	})
}

// checkMatches checks that only users of provider are meant.
func checkMatches(t *testing.T, whom []session.Match) {
	t.Helper()
	for _, m := range whom {
		if m.Issuer != provider || m.Check() != nil || !jose.IsPrintable(m.Subject+m.Email+m.SID) {
			t.Fatalf("%+v is meant", m)
		}
	}
}

// FuzzToken: whatever is delivered, nothing has an effect that the transmitter has not signed.
func FuzzToken(f *testing.F) {
	g := newRig(f)
	r := g.receiver()
	good := g.sign(g.claims(revoked, alice(), nil))
	for _, seed := range []string{good, good[:len(good)-3], strings.Replace(good, ".", "..", 1), "", "..", "x.y.z", `{"payload":"e30"}`,
		g.key.Confuse(f, object{"alg": "HS256", "typ": "secevent+jwt"}, encode(f, g.claims(revoked, alice(), nil)))} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if err := r.take(t.Context(), token, "fuzz"); err == nil && token != good {
			t.Fatalf("%q was accepted", token)
		}
	})
}

// FuzzSubject: whatever a subject says, only users of the transmitter's issuers are meant.
func FuzzSubject(f *testing.F) {
	for _, tc := range subjectCases {
		f.Add([]byte(encode(f, tc.subject)))
	}
	f.Add([]byte(`{"format":"email","email":"a","EMAIL":"b"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, cfg := range []Transmitter{{}, {Opaque: MeansUser}, {SessionIDs: IsUnknown}} {
			cfg.Issuers = []string{provider}
			found, err := subjectsOf(&cfg).find(raw, []string{"group"})
			if err == nil && len(found) == 0 || len(found) > maxAliases {
				t.Fatalf("%q means %v", raw, found)
			}
			checkMatches(t, found)
		}
	})
}

// FuzzScim: a change ends sessions only if it has a false in it, and names no more members than it may.
func FuzzScim(f *testing.F) {
	for _, seed := range []string{
		`{"Operations":[{"op":"Replace","path":"active","value":"False"}]}`, `{"Operations":[{"op":"replace","value":{"active":false}}]}`,
		`{"Operations":[{"op":"remove","path":"members[value eq \"abc\"]"}]}`, `{"Operations":[{"op":"add","path":"members","value":[{"value":"a"}]}]}`,
		`{"userName":"a","externalId":"b","active":false}`, `{"displayName":"g","members":[{"value":"x"}]}`, `{"operations":null}`, `[]`, "\xff",
		`{"Operations":[{"op":"add","value":{"urn:ietf:params:scim:schemas:core:2.0:User:active":true,"ACTIVE":false}}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		said := strings.ToLower(string(body))
		if change, err := parseUserPatch(body); err == nil && change == end && !strings.Contains(unescape(said), "false") {
			t.Fatalf("%q ends sessions", body)
		}
		if u, active, err := parseUser(body); err == nil && (!active && !strings.Contains(unescape(said), "false") || u.check() != nil) {
			t.Fatalf("%q is %+v, active %v", body, u, active)
		}
		if members, err := parseGroupPatch(body); err == nil && len(members) > maxMembers {
			t.Fatalf("%d members", len(members))
		}
	})
}

// unescape resolves the escapes of JSON, as far as strings have them.
func unescape(s string) string {
	var plain any
	if json.Unmarshal([]byte(s), &plain) != nil {
		return s + "false" // cannot be told
	}
	b, err := json.Marshal(plain)
	if err != nil {
		return s
	}
	return string(b)
}

func FuzzFilter(f *testing.F) {
	for _, seed := range []string{`userName eq "a"`, ` externalId EQ "a\"b" `, `emails[type eq "work"].value eq "x"`, `userName eq "\ud800"`, `a eq ""b"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if attribute, _, err := parseFilter(text); err == nil && (attribute == "" && !strings.Contains(strings.ToLower(text), ":") || attribute != strings.ToLower(attribute)) {
			t.Fatalf("%q is about %q", text, attribute)
		}
	})
}

// FuzzKill: a webhook that is bound to an issuer ends sessions of nobody else, and never everybody's.
func FuzzKill(f *testing.F) {
	for _, seed := range []string{`{"subject":"a"}`, `{"issuer":"https://idp.example","email":"a","reason":"x"}`, `{"sid":"1"}`, `{"session":"x"}`, `{}`,
		`{"subject":"a","SUBJECT":"b"}`, `{"issuer":"https://other.example","subject":"a"}`, `{"Issuer":"x"}`, `null`, "\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		h := hook{cfg: Webhook{Issuer: provider}}
		who, reason, err := h.parse(body)
		if err != nil {
			return
		}
		checkMatches(t, []session.Match{who})
		if len(reason) > jose.MaxText || !jose.IsPrintable(reason) {
			t.Fatalf("users are told %q", reason)
		}
	})
}

// FuzzSets: what is delivered to a poll has names that differ, in order.
func FuzzSets(f *testing.F) {
	for _, seed := range []string{`{"sets":{"a":"x","b":"y"},"moreAvailable":true}`, `{"sets":{}}`, `{"sets":{"a":"x","a":"y"}}`, `{"sets":null}`, `{"sets":{"a":null}}`, `{}`, `[]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		sets, _, err := parseSets(answer)
		if err == nil && !slices.IsSortedFunc(sets, func(a, b delivered) int { return strings.Compare(a.jti, b.jti) }) {
			t.Fatalf("%q: %v", answer, sets)
		}
	})
}

// FuzzStream: a stream that is accepted has events that would be.
func FuzzStream(f *testing.F) {
	cfg := Transmitter{Issuer: provider, Audience: us}
	for _, seed := range []string{`{"stream_id":"s","iss":"https://idp.example","aud":"curfew.example"}`, `{"stream_id":"s","iss":"https://idp.example","aud":["curfew.example","x"]}`,
		`{"stream_id":"","iss":"","aud":[]}`, `{"aud":{}}`, `{"stream_id":"s","status":"paused"}`, `[{}]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s, err := readStream(raw, &cfg); err == nil && (s.ID == "" || s.Issuer != provider || !slices.Equal(s.Audience, []string{us}) || s.Delivery.Authorization != "") {
			t.Fatalf("%q is %+v", raw, s)
		}
		if s, err := readStatus(raw, "s"); err == nil && (s.ID != "s" || !isStatus(s.Status)) {
			t.Fatalf("%q is %+v", raw, s)
		}
		_, _ = readStreams(raw, &cfg)
		_ = unmarshal(raw, &Metadata{})
	})
}

// FuzzAccessToken: what an authorization server gives is a bearer token for a while, and can be put into a header.
func FuzzAccessToken(f *testing.F) {
	for _, seed := range []string{`{"access_token":"a","token_type":"Bearer","expires_in":20}`, `{"access_token":"a\r\nb","token_type":"bearer"}`,
		`{"access_token":"a","token_type":"mac"}`, `{"access_token":"a","ACCESS_TOKEN":"b","token_type":"Bearer"}`,
		`{"access_token":"a","token_type":"Bearer","expires_in":1e300}`, `{"access_token":1}`, `[]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		token, life, err := readAccessToken(body)
		if err == nil && (!bearerToken.MatchString(token) || life <= 0 || life > maxMaxAge) {
			t.Fatalf("%q is %q, good for %s", body, token, life)
		}
	})
}

// FuzzIdentifier: whatever is said to be an identifier of SCIM is that of one user or group, or none, and written in one way.
func FuzzIdentifier(f *testing.F) {
	for _, seed := range []string{encodeID("a@x.example", "alice"), encodeID("dba"), encodeID("", ""), "W10", "", "W251bGxd", "eyJhIjoxfQ"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if u, err := userOf(id); err == nil && (u.id() != id || u.check() != nil) {
			t.Fatalf("%q is %+v", id, u)
		}
		if name, err := groupOf(id); err == nil && (encodeID(name) != id || checkGroup(name) != nil) {
			t.Fatalf("%q is group %q", id, name)
		}
	})
}
