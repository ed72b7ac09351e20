// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/jwt"
)

func TestCheckType(t *testing.T) {
	for _, tc := range []struct {
		header  string
		allowed []string
		want    string // in the error; empty: accepted
	}{
		{`{}`, []string{Untyped, TypeJWT}, ""},
		{`{"typ":null}`, []string{Untyped, TypeJWT}, ""},
		{`{"typ":"JWT"}`, []string{Untyped, TypeJWT}, ""},
		{`{"typ":"application/Logout+JWT"}`, []string{TypeLogout}, ""},
		{`{}`, []string{TypeLogout}, "want logout+jwt"},
		{`{"typ":"at+jwt"}`, []string{Untyped, TypeJWT}, "want JWT"},
		{`{"typ":"x"}`, []string{TypeJWT, TypeAccess}, "want JWT or at+jwt"},
		{`{"typ":7}`, []string{Untyped}, "typ"},
		{`{"typ":"JWT","TYP":"x"}`, []string{TypeJWT}, "same but for case"},
		{`typ`, []string{Untyped}, "header"},
	} {
		err := CheckType(jwt.Encode([]byte(tc.header))+".e30.x", tc.allowed...)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s for %q: %v; want %q", tc.header, tc.allowed, err, tc.want)
		}
	}
	if CheckType("{}.e30.x", Untyped) == nil {
		t.Error("a header that is not base64url was accepted")
	}
}

func TestCheckIssued(t *testing.T) {
	now := time.Now()
	at := now.Unix()
	for _, tc := range []struct{ payload, want string }{
		{fmt.Sprintf(`{"exp":%d,"iat":%d}`, at+60, at-60), ""},
		{fmt.Sprintf(`{"exp":%d,"iat":%d}`, at+60, at+30), ""},
		{fmt.Sprintf(`{"exp":%d,"iat":%d}`, at+6000, at+3600), "in the future"},
		{fmt.Sprintf(`{"exp":%d}`, at+60), "iat is missing"},
		{fmt.Sprintf(`{"exp":%d,"iat":"now"}`, at+60), "iat is not a date"},
		{fmt.Sprintf(`{"iat":%d}`, at), "exp is missing"},
		{fmt.Sprintf(`{"iat":%d,"exp":-1}`, at), "exp is missing"},
	} {
		c, err := ParseClaims([]byte(tc.payload))
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.CheckIssued(now)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want %q", tc.payload, err, tc.want)
		}
	}
}

func TestAlgorithms(t *testing.T) {
	if all, err := Algorithms(nil); err != nil || len(all) != len(asymmetric) {
		t.Errorf("Algorithms(nil) = %q, %v", all, err)
	}
	for _, bad := range []string{"HS256", "none", "", "rs256"} {
		if _, err := Algorithms([]string{"RS256", bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestCheckEndpoint(t *testing.T) {
	for _, tc := range []struct {
		url string
		ok  bool
	}{
		{"https://idp.example/keys?x=y", true},
		{"http://127.0.0.1:80", true},
		{"http://[::1]/keys", true},
		{"http://localhost", true},
		{"http://idp.example", false},
		{"https://a@idp.example", false},
		{"https://idp.example/#x", false},
		{"file:///etc/passwd", false},
		{"/keys", false},
		{"", false},
	} {
		if err := CheckEndpoint(tc.url); (err == nil) != tc.ok {
			t.Errorf("CheckEndpoint(%q) = %v, want ok %v", tc.url, err, tc.ok)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got := Printable("a\x1b[31m\u202eb\n"); got != "a[31mb" {
		t.Errorf("Printable = %q", got)
	}
	if got := Printable(strings.Repeat("ä", MaxText)); len(got) != MaxText || !IsPrintable(got) {
		t.Errorf("a long text has %d bytes", len(got))
	}
}

func TestValues(t *testing.T) {
	c, err := ParseClaims([]byte(`{"s":"x","i":9007199254740993,"f":1.5,"big":1e400,"b":true,"n":null,"l":[1,{"a":2}]}`))
	if err != nil {
		t.Fatal(err)
	}
	have, err := c.Values()
	want := map[string]any{"s": "x", "i": int64(9007199254740993), "f": 1.5, "big": math.Inf(1), "b": true, "n": nil, "l": []any{int64(1), map[string]any{"a": int64(2)}}}
	if err != nil || !reflect.DeepEqual(have, want) {
		t.Errorf("%#v, %v\nwant %#v", have, err, want)
	}
}
