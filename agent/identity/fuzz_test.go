// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
)

// FuzzIdentity checks what becomes of claims that were read.
func FuzzIdentity(f *testing.F) {
	for _, seed := range []string{
		`{"sub":"alice","groups":["a"],"amr":["pwd"],"auth_time":1.5}`, `{"sub":"a","SUB":"b"}`, "{\"i\u017fs\":1,\"iss\":2}",
		`{"sub":"a","sub":"b"}`, `{}`, `[]`, `{"sub":"\u0000"}`, `{"sub":"a"}{}`, `{"_claim_names":{"groups":"x"}}`,
		`{"groups":{"x":["y"]}}`, `{"auth_time":1e400}`, "\xff", `{"name":"\u202e"}`,
	} {
		f.Add([]byte(seed), "groups")
		f.Add([]byte(seed), "/groups/x")
	}
	f.Fuzz(func(t *testing.T, payload []byte, groupsClaim string) {
		c, err := jose.ParseClaims(payload)
		if err != nil {
			return
		}
		// What encoding/json, and so go-oidc, would read must be what was read here.
		var loose struct {
			Sub string `json:"sub"`
		}
		looseErr := json.Unmarshal(payload, &loose)
		id, err := describe(c, "https://idp.example", groupsClaim)
		if err != nil {
			return
		}
		if looseErr != nil || loose.Sub != id.Subject {
			t.Fatalf("%q: sub is %q here, %q to encoding/json (%v)", payload, id.Subject, loose.Sub, looseErr)
		}
		for _, s := range append([]string{id.Subject, id.Name, id.Email, id.ACR}, append(id.Groups, id.AMR...)...) {
			if strings.ContainsFunc(s, unicode.IsControl) || len(s) > jose.MaxText {
				t.Fatalf("%q got through", s)
			}
		}
	})
}

// FuzzLoginRequest checks that whatever a client asks for, a code can only go to loopback.
func FuzzLoginRequest(f *testing.F) {
	for _, seed := range []string{
		`{"redirect":"http://127.0.0.1:1234/x","state":"12345678"}`, `{"redirect":"http://[::1]:1/","state":"12345678"}`,
		`{"redirect":"http://127.0.0.1:1@evil/","state":"12345678"}`, `{"Redirect":"x"}`, `{}{}`, `null`, `{"x":1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var req api.LoginRequest
		if decodeBody(strings.NewReader(string(body)), &req) != nil {
			return
		}
		to, err := parseRedirect(req.Redirect, req.State)
		if err != nil {
			return
		}
		u, err := url.Parse(to.withCode("c"))
		if err != nil {
			t.Fatal(err)
		}
		addr, err := netip.ParseAddrPort(u.Host)
		if err != nil || !addr.Addr().IsLoopback() || addr.Addr().Is4In6() || u.Scheme != "http" || u.User != nil || u.Fragment != "" {
			t.Fatalf("%q leads to %q", req.Redirect, u)
		}
		if q := u.Query(); q.Get("code") != "c" || q.Get("state") != req.State || len(q) != 2 {
			t.Fatalf("%q has the query %v", req.Redirect, q)
		}
	})
}

// FuzzDeviceAnswer: whatever a provider answers, what the user is shown can be shown, and leads to where nobody listens in.
func FuzzDeviceAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"device_code":"c","user_code":"WDJB","verification_uri":"https://idp.example/d","expires_in":600,"interval":5}`,
		`{"device_code":"c","user_code":"W\u001b[2J","verification_uri":"https://idp.example/d","expires_in":600}`,
		`{"device_code":"c","user_code":"W","verification_uri":"javascript:alert(1)","expires_in":1e300,"interval":-1}`,
		`{"device_code":"c","user_code":"W","verification_uri":"https://idp.example/d","verification_uri_complete":"http://evil.example","expires_in":1}`, `{}`, `[]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var a deviceAnswer
		if json.Unmarshal(body, &a) != nil {
			return
		}
		g, err := a.grant()
		if err != nil {
			return
		}
		if g.code == "" || !jose.IsPrintable(g.userCode+g.uri+g.uriComplete) || g.lifetime <= 0 || g.lifetime > loginLifetime || g.interval <= 0 || g.interval > deviceMaxInterval {
			t.Fatalf("%q is %+v", body, g)
		}
		for _, uri := range []string{g.uri, g.uriComplete} {
			if uri != "" && jose.CheckEndpoint(uri) != nil {
				t.Fatalf("%q leads to %q", body, uri)
			}
		}
	})
}
