// SPDX-License-Identifier: Apache-2.0

package session

import "testing"

func TestMatch(t *testing.T) {
	s := &Session{ID: ID{1}, SID: "sid", Identity: Identity{Issuer: "i", Subject: "s", Email: "e"}}
	for _, tc := range []struct {
		match Match
		want  bool
	}{
		{Match{}, false}, // an empty request must not end everything
		{Match{Issuer: "i"}, false},
		{Match{SID: "sid"}, false}, // of which provider?
		{Match{Subject: "s"}, true}, {Match{Issuer: "i", Subject: "s"}, true}, {Match{Issuer: "x", Subject: "s"}, false},
		{Match{Issuer: "i", SID: "sid"}, true}, {Match{Issuer: "x", SID: "sid"}, false}, {Match{Issuer: "i", SID: "x"}, false},
		{Match{Issuer: "i", Subject: "x", SID: "sid"}, false},
		{Match{Email: "e"}, true}, {Match{Email: "E"}, true}, {Match{Email: "x"}, false}, {Match{Issuer: "x", Email: "e"}, false},
		{Match{ID: ID{1}}, true}, {Match{ID: ID{2}}, false},
		{Match{Issuer: "i", Subject: "s", Unnamed: true}, false}, // it is named
		{Match{Unnamed: true}, false},
	} {
		if got := tc.match.Matches(s); got != tc.want {
			t.Errorf("%+v: %v", tc.match, got)
		}
	}
	s.SID = ""
	for _, m := range []Match{{Subject: "s", Unnamed: true}, {Issuer: "i", Unnamed: true}, {Issuer: "i", Subject: "s", SID: "sid", Unnamed: true}} {
		if m.Check() == nil || m.Matches(s) {
			t.Errorf("%+v names somebody", m)
		}
	}
	if !(Match{Issuer: "i", Subject: "s", Unnamed: true}).Matches(s) {
		t.Error("a session without a name does not match")
	}
}
