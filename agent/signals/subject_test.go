// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/session"
)

const other = "https://other.example"

func issSub(iss, sub string) object { return object{"format": "iss_sub", "iss": iss, "sub": sub} }

func opaque(id string) object { return object{"format": "opaque", "id": id} }

func email(address string) object { return object{"format": "email", "email": address} }

// Whom subjects mean, to a transmitter that may speak of two issuers. Want is a list of matches, the outcome of a
// *notMeant, or "!" and what is malformed.
var subjectCases = []struct {
	name    string
	subject any
	want    []string
}{
	{"issuer and subject", issSub(provider, "alice"), []string{"sub alice at " + provider}},
	{"an issuer that is not the transmitter's affair", issSub("https://evil.example", "alice"), []string{EventForeign}},
	{"no issuer", object{"format": "iss_sub", "sub": "alice"}, []string{"!iss is missing"}},
	{"no subject", object{"format": "iss_sub", "iss": provider}, []string{"!sub is missing"}},
	{"empty subject", issSub(provider, ""), []string{"!sub is missing"}},
	{"subject with a line break", issSub(provider, "a\nb"), []string{"!sub is missing"}},
	{"long subject", issSub(provider, strings.Repeat("a", 256)), []string{"!sub is missing"}},
	{"number as subject", object{"format": "iss_sub", "iss": provider, "sub": 1}, []string{"!not a string"}},
	{"SUB only", object{"format": "iss_sub", "iss": provider, "SUB": "alice"}, []string{"!sub is missing"}},
	{"SUB beside sub", object{"format": "iss_sub", "iss": provider, "SUB": "a", "sub": "b"}, []string{"!same but for case"}},
	{"e-mail address", email("a@x.example"), []string{"email a@x.example at " + provider, "email a@x.example at " + other}},
	{"no e-mail address", object{"format": "email"}, []string{"!email is missing"}},
	{"opaque", opaque("s1"), []string{"sid s1 at " + provider, "sid s1 at " + other}},
	{"opaque without any", object{"format": "opaque"}, []string{"!id is missing"}},
	{"before RFC 9493", object{"subject_type": "iss-sub", "iss": provider, "sub": "alice"}, []string{"sub alice at " + provider}},
	{"no format", object{"iss": provider, "sub": "alice"}, []string{"!no format"}},
	{"empty format", object{"format": "", "email": "a"}, []string{"!no format"}},
	{"number as format", object{"format": 1}, []string{"!format"}},
	{"text", "alice", []string{"!object"}},
	{"array", []string{"alice"}, []string{"!object"}},
	{"null", nil, []string{"!object"}},

	{"account", object{"format": "account", "uri": "acct:alice@x.example"}, []string{EventUnmapped}},
	{"phone number", object{"format": "phone_number", "phone_number": "+12065550100"}, []string{EventUnmapped}},
	{"decentralised identifier", object{"format": "did", "url": "did:example:1"}, []string{EventUnmapped}},
	{"URI", object{"format": "uri", "uri": "urn:x"}, []string{EventUnmapped}},
	{"token", object{"format": "jwt_id", "iss": provider, "jti": "1"}, []string{EventUnmapped}},
	{"assertion", object{"format": "saml_assertion_id", "issuer": provider, "assertion_id": "1"}, []string{EventUnmapped}},
	{"addresses", object{"format": "ip-addresses", "ip-addresses": []string{"10.0.0.1"}}, []string{EventUnmapped}},
	{"of their own", object{"format": "catalog_item", "catalog_id": "1"}, []string{EventUnmapped}},
	{"ISS_SUB", object{"format": "ISS_SUB", "iss": provider, "sub": "alice"}, []string{EventUnmapped}},

	{"aliases", object{"format": "aliases", "identifiers": []object{issSub(provider, "alice"), email("a@x.example"), {"format": "phone_number", "phone_number": "+1"}}},
		[]string{"sub alice at " + provider, "email a@x.example at " + provider, "email a@x.example at " + other}},
	{"aliases, one foreign", object{"format": "aliases", "identifiers": []object{issSub("https://evil.example", "x"), issSub(provider, "alice")}}, []string{"sub alice at " + provider}},
	{"aliases of nobody", object{"format": "aliases", "identifiers": []object{{"format": "account", "uri": "acct:a@b"}}}, []string{EventUnmapped}},
	{"no aliases", object{"format": "aliases", "identifiers": []object{}}, []string{"!identifiers"}},
	{"aliases is text", object{"format": "aliases", "identifiers": "x"}, []string{"!identifiers"}},
	{"many aliases", object{"format": "aliases", "identifiers": slices.Repeat([]object{email("a@x.example")}, 17)}, []string{"!identifiers"}},
	{"aliases within aliases", object{"format": "aliases", "identifiers": []object{{"format": "aliases", "identifiers": []object{email("a")}}}}, []string{"!within"}},
	{"complex within aliases", object{"format": "aliases", "identifiers": []object{{"user": email("a")}}}, []string{"!within"}},
	{"an alias that is malformed", object{"format": "aliases", "identifiers": []object{email("a@x.example"), {"format": "email"}}}, []string{"!email is missing"}},

	{"user", object{"format": "complex", "user": issSub(provider, "alice")}, []string{"sub alice at " + provider}},
	{"user and session", object{"format": "complex", "user": issSub(provider, "alice"), "session": opaque("s1")}, []string{"sid s1 at " + provider, "sid s1 at " + other}},
	{"session of an issuer", object{"format": "complex", "session": issSub(provider, "s1")}, []string{"sid s1 at " + provider}},
	{"a session that cannot be known", object{"format": "complex", "user": issSub(provider, "alice"), "session": object{"format": "jwt_id", "iss": provider, "jti": "1"}}, []string{"sub alice at " + provider}},
	{"a session that cannot be known, alone", object{"format": "complex", "session": object{"format": "jwt_id", "iss": provider, "jti": "1"}}, []string{EventUnmapped}},
	{"user and device", object{"format": "complex", "user": email("a@x.example"), "device": opaque("d")}, []string{"email a@x.example at " + provider, "email a@x.example at " + other}},
	{"opaque user", object{"format": "complex", "user": opaque("alice")}, []string{"sub alice at " + provider, "sub alice at " + other}},
	{"device alone", object{"format": "complex", "device": issSub(provider, "d")}, []string{EventUnmapped}},
	{"tenant alone", object{"format": "complex", "tenant": opaque("t")}, []string{EventUnmapped}},
	{"critical member", object{"format": "complex", "user": issSub(provider, "alice"), "group": opaque("g")}, []string{EventCritical}},
	{"critical member beside a session", object{"format": "complex", "session": opaque("s1"), "group": opaque("g")}, []string{EventCritical}},
	{"complex before SSF 1.0", object{"user": issSub(provider, "alice"), "device": opaque("d")}, []string{"sub alice at " + provider}},
	{"foreign user", object{"format": "complex", "user": issSub("https://evil.example", "alice")}, []string{EventForeign}},
	{"user is text", object{"format": "complex", "user": "alice"}, []string{"!user"}},
	{"user is complex", object{"format": "complex", "user": object{"format": "complex", "user": email("a")}}, []string{"!complex itself"}},
	{"session is malformed", object{"format": "complex", "user": issSub(provider, "alice"), "session": object{"format": "opaque"}}, []string{"!id is missing"}},
	{"empty complex", object{"format": "complex"}, []string{EventUnmapped}},
}

func texts(list []session.Match) []string {
	var out []string
	for _, m := range list {
		out = append(out, text(m))
	}
	return out
}

func TestSubjects(t *testing.T) {
	who := subjectsOf(&Transmitter{Issuers: []string{provider, other}})
	for _, tc := range subjectCases {
		found, err := who.find([]byte(encode(t, tc.subject)), []string{"group", "user"})
		checkSubject(t, tc.name, texts(found), err, tc.want)
	}
}

func checkSubject(t *testing.T, name string, found []string, err error, want []string) {
	t.Helper()
	var nobody *notMeant
	switch malformed, is := strings.CutPrefix(want[0], "!"); {
	case is:
		if err == nil || errors.As(err, &nobody) || !strings.Contains(err.Error(), malformed) {
			t.Errorf("%s: %q, %v; want it to be malformed: %s", name, found, err, malformed)
		}
	case strings.HasPrefix(want[0], "event-"):
		if !errors.As(err, &nobody) || nobody.outcome != want[0] {
			t.Errorf("%s: %q, %v; want %s", name, found, err, want[0])
		}
	case err != nil || !slices.Equal(found, want):
		t.Errorf("%s: %q, %v; want %q", name, found, err, want)
	}
}

// What identifiers mean can be configured.
func TestMeaningOfSubjects(t *testing.T) {
	both := object{"format": "complex", "user": issSub(provider, "alice"), "session": opaque("s1")}
	for _, tc := range []struct {
		opaque, sessions string
		subject          object
		want             []string
	}{
		{MeansUser, "", opaque("alice"), []string{"sub alice at " + provider}},
		{MeansSession, IsSID, opaque("s1"), []string{"sid s1 at " + provider}},
		{"", IsUnknown, opaque("s1"), []string{EventUnmapped}},
		{MeansUser, IsUnknown, opaque("alice"), []string{"sub alice at " + provider}},
		{"", IsUnknown, both, []string{"sub alice at " + provider}},
		{"", IsUnknown, object{"format": "complex", "session": opaque("s1")}, []string{EventUnmapped}},
		{MeansUser, IsSID, both, []string{"sid s1 at " + provider}},
	} {
		cfg := Transmitter{Issuers: []string{provider}, Opaque: tc.opaque, SessionIDs: tc.sessions}
		found, err := subjectsOf(&cfg).find([]byte(encode(t, tc.subject)), nil)
		checkSubject(t, cfg.Opaque+" "+cfg.SessionIDs, texts(found), err, tc.want)
	}
}
