// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const scimToken = "scim-token-0123456789-0123456789"

// scim serves a provisioner whose userName is the address and whose externalId is the subject.
func (g *rig) scim() *Signals {
	return g.signals(func(c *Config) {
		c.Provisioners = []Provisioner{{Name: "hr", Tokens: []string{scimToken}, Issuer: provider, ExternalID: IsSubject},
			{Name: "upn", Tokens: []string{"upn-" + scimToken}, Issuer: provider}}
	})
}

func scim(h http.Handler, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	return ask(h, method, "/scim/v2/hr/"+path, body, append([]string{"Authorization", "Bearer " + scimToken, "Content-Type", "application/scim+json"}, headers...)...)
}

// answerOf reads a body.
func answerOf(t *testing.T, w *httptest.ResponseRecorder) object {
	t.Helper()
	var o object
	if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil || w.Header().Get("Content-Type") != "application/scim+json" {
		t.Fatalf("%d %v %s: %v", w.Code, w.Header(), w.Body, err)
	}
	return o
}

const (
	endMail = "end email a@x.example at " + provider
	askMail = "ask email a@x.example at " + provider
)

var (
	both    = encodeID("a@x.example", "alice") // of users
	onlyUPN = encodeID("a@x.example", "")
)

func TestScimUsers(t *testing.T) {
	g := newRig(t)
	s := g.scim()
	const patch = `"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],`
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
		want, counted            string
	}{
		{"create", "POST", "Users", `{"schemas":["` + schemaUser + `"],"userName":"a@x.example","externalId":"alice","active":true}`, 201, "", ""},
		{"create inactive", "POST", "Users", `{"userName":"a@x.example","active":false}`, 201, endMail, "scim-ended:1"},
		{"create inactive, with both names", "POST", "Users", `{"userName":"a@x.example","externalId":"alice","active":"False"}`, 201, endMail + ", " + endAlice, "scim-ended:1"},
		{"names in other case", "POST", "Users", `{"USERNAME":"a@x.example","Active":false}`, 201, endMail, "scim-ended:1"},
		{"replace", "PUT", "Users/" + both, `{"userName":"a@x.example","externalId":"alice","active":true}`, 200, "", "scim-ignored:1"},
		{"replace, no active", "PUT", "Users/" + both, `{"userName":"a@x.example"}`, 200, "", "scim-ignored:1"},
		{"replace inactive", "PUT", "Users/" + both, `{"userName":"a@x.example","externalId":"alice","active":false}`, 200, endMail + ", " + endAlice, "scim-ended:1"},
		{"replace inactive, renamed", "PUT", "Users/" + onlyUPN, `{"userName":"b@x.example","active":false}`, 200, endMail + ", end email b@x.example at " + provider, "scim-ended:1"},
		{"delete", "DELETE", "Users/" + both, "", 204, endMail + ", " + endAlice, "scim-ended:1"},

		{"patch", "PATCH", "Users/" + onlyUPN, `{` + patch + `"Operations":[{"op":"replace","path":"active","value":false}]}`, 200, endMail, "scim-ended:1"},
		{"patch as Entra ID does", "PATCH", "Users/" + onlyUPN, `{` + patch + `"Operations":[{"op":"Replace","path":"active","value":"False"}]}`, 200, endMail, "scim-ended:1"},
		{"patch as Okta does", "PATCH", "Users/" + onlyUPN, `{` + patch + `"Operations":[{"op":"replace","value":{"active":false}}]}`, 200, endMail, "scim-ended:1"},
		{"patch by full name", "PATCH", "Users/" + onlyUPN, `{"Operations":[{"op":"add","path":"` + schemaUser + `:active","value":false}]}`, 200, endMail, "scim-ended:1"},
		{"patch by full name within", "PATCH", "Users/" + onlyUPN, `{"Operations":[{"op":"add","value":{"` + schemaUser + `:Active":"false"}}]}`, 200, endMail, "scim-ended:1"},
		{"patch to active", "PATCH", "Users/" + onlyUPN, `{"Operations":[{"op":"replace","path":"active","value":true}]}`, 200, "", "scim-ignored:1"},
		{"patch to both", "PATCH", "Users/" + onlyUPN, `{"Operations":[{"op":"replace","path":"active","value":false},{"op":"replace","path":"active","value":true}]}`, 200, endMail, "scim-ended:1"},
		{"patch a name", "PATCH", "Users/" + onlyUPN, `{"Operations":[{"op":"replace","path":"name.familyName","value":"active"}]}`, 200, "", "scim-ignored:1"},
		{"patch groups", "PATCH", "Users/" + onlyUPN, `{"Operations":[{"op":"remove","path":"groups[value eq \"g\"]"}]}`, 200, askMail, "scim-reconsidered:1"},
		{"patch groups within", "PATCH", "Users/" + onlyUPN, `{"Operations":[{"op":"add","value":{"groups":[{"value":"g"}]}}]}`, 200, askMail, "scim-reconsidered:1"},
		{"patch groups and active", "PATCH", "Users/" + onlyUPN, `{"Operations":[{"op":"add","value":{"active":false,"groups":[]}}]}`, 200, endMail, "scim-ended:1"},

		{"patch nobody", "PATCH", "Users/x", `{"Operations":[{"op":"replace","path":"active","value":false}]}`, 404, "", ""},
		{"delete a user with one name", "DELETE", "Users/" + encodeID("a@x.example"), "", 404, "", ""},
		{"delete a user without names", "DELETE", "Users/" + encodeID("", ""), "", 404, "", ""},
		{"delete, written in another way", "DELETE", "Users/" + both + "=", "", 404, "", ""},
		{"delete a group's identifier", "DELETE", "Users/" + encodeID("a", "b", "c"), "", 404, "", ""},
		{"create without names", "POST", "Users", `{"active":false}`, 400, "", "scim-refused:1"},
		{"create with a number", "POST", "Users", `{"userName":1,"active":false}`, 400, "", "scim-refused:1"},
		{"create with a line break", "POST", "Users", `{"userName":"a\nb","active":false}`, 400, "", "scim-refused:1"},
		{"create, long", "POST", "Users", `{"userName":"` + strings.Repeat("a", 513) + `"}`, 400, "", "scim-refused:1"},
		{"create twice active", "POST", "Users", `{"userName":"a@x.example","active":false,"Active":true}`, 400, "", "scim-refused:1"},
		{"create twice active, once by full name", "POST", "Users", `{"userName":"a@x.example","active":false,"` + schemaUser + `:active":true}`, 400, "", "scim-refused:1"},
		{"active is null", "POST", "Users", `{"userName":"a@x.example","active":null}`, 400, "", "scim-refused:1"},
		{"active is a number", "PUT", "Users/" + both, `{"userName":"a@x.example","active":0}`, 400, "", "scim-refused:1"},
		{"active is text", "PATCH", "Users/" + both, `{"Operations":[{"op":"replace","path":"active","value":"no"}]}`, 400, "", "scim-refused:1"},
		{"active is removed", "PATCH", "Users/" + both, `{"Operations":[{"op":"remove","path":"active"}]}`, 400, "", "scim-refused:1"},
		{"active has no value", "PATCH", "Users/" + both, `{"Operations":[{"op":"replace","path":"active"}]}`, 400, "", "scim-refused:1"},
		{"no path and no value", "PATCH", "Users/" + both, `{"Operations":[{"op":"remove"}]}`, 400, "", "scim-refused:1"},
		{"another operation", "PATCH", "Users/" + both, `{"Operations":[{"op":"test","path":"active","value":false}]}`, 400, "", "scim-refused:1"},
		{"no operations", "PATCH", "Users/" + both, `{"Operations":[]}`, 400, "", "scim-refused:1"},
		{"many operations", "PATCH", "Users/" + both, `{"Operations":[` + strings.Repeat(`{"op":"add","path":"x","value":1},`, 100) + `{"op":"add","path":"x","value":1}]}`, 400, "", "scim-refused:1"},
		{"operations twice", "PATCH", "Users/" + both, `{"Operations":[],"operations":[]}`, 400, "", "scim-refused:1"},
		{"array", "POST", "Users", `[]`, 400, "", "scim-refused:1"},
		{"empty", "PUT", "Users/" + both, ``, 400, "", "scim-refused:1"},
		{"huge", "PUT", "Users/" + both, strings.Repeat(" ", 300<<10), 413, "", "scim-refused:1"},
		{"bulk", "POST", "Bulk", `{}`, 404, "", ""},
		{"search", "POST", "Users/.search", `{}`, 404, "", ""},
		{"me", "GET", "Me", ``, 404, "", ""},
	} {
		w := scim(s, tc.method, tc.path, tc.body)
		did, counted := strings.Join(g.sessions.taken(), ", "), g.counts.all()
		if w.Code != tc.status || did != tc.want || counted != tc.counted {
			t.Errorf("%s: %d %s, did %q, counted %s; want %d, %q, %s", tc.name, w.Code, w.Body, did, counted, tc.status, tc.want, tc.counted)
		}
		if tc.status >= 400 {
			if e := answerOf(t, w); !slices.Equal(e["schemas"].([]any), []any{"urn:ietf:params:scim:api:messages:2.0:Error"}) || e["status"] != strconv.Itoa(w.Code) || e["detail"] == "" {
				t.Errorf("%s: %v", tc.name, e)
			}
		}
	}
}

// The whole way of a client: it looks for a user, creates it if there is none, and deactivates it by the identifier that it was
// given.
func TestScimLife(t *testing.T) {
	g := newRig(t)
	s := g.scim()
	find := func(filter string) []any {
		t.Helper()
		w := scim(s, "GET", "Users?filter="+url.QueryEscape(filter), "")
		o := answerOf(t, w)
		if w.Code != http.StatusOK || o["totalResults"] != float64(len(o["Resources"].([]any))) {
			t.Fatalf("%s: %d %v", filter, w.Code, o)
		}
		return o["Resources"].([]any)
	}
	deactivate := func(id any) []string {
		t.Helper()
		w := scim(s, "PATCH", "Users/"+id.(string), `{"Operations":[{"op":"replace","path":"active","value":false}]}`)
		if o := answerOf(t, w); w.Code != http.StatusOK || o["active"] != false || o["id"] != id {
			t.Errorf("%d %v", w.Code, o)
		}
		return g.sessions.taken()
	}
	found := find(`userName eq "a@x.example"`)
	user := found[0].(object)
	if len(found) != 1 || user["userName"] != "a@x.example" || user["active"] != true || user["meta"].(object)["location"] != "https://example.com/scim/v2/hr/Users/"+user["id"].(string) {
		t.Fatalf("found %v", found)
	}
	if did := deactivate(user["id"]); !slices.Equal(did, []string{endMail}) {
		t.Errorf("did %q", did)
	}
	found = find(`externalId EQ "al\"ice"`)
	if user = found[0].(object); user["externalId"] != `al"ice` {
		t.Fatalf("found %v", found)
	}
	if did := deactivate(user["id"]); !slices.Equal(did, []string{`end sub al"ice at ` + provider}) {
		t.Errorf("did %q", did)
	}
	for _, other := range []string{`id eq "x"`, `displayName eq "x"`, `userName eq ""`} {
		if found := find(other); len(found) != 0 {
			t.Errorf("%s: %v", other, found)
		}
	}
	w := scim(s, "POST", "Users", `{"userName":"a@x.example","externalId":"alice"}`)
	made := answerOf(t, w)
	if w.Code != http.StatusCreated || w.Header().Get("Location") != made["meta"].(object)["location"] || made["active"] != true {
		t.Fatalf("%d %v %v", w.Code, w.Header(), made)
	}
	if got := answerOf(t, scim(s, "GET", "Users/"+made["id"].(string), "")); got["id"] != made["id"] || got["externalId"] != "alice" {
		t.Errorf("got %v", got)
	}
	if did := deactivate(made["id"]); !slices.Equal(did, []string{endMail, endAlice}) {
		t.Errorf("did %q", did)
	}
	for _, bad := range []string{`userName co "a"`, `userName eq a`, `userName eq "a" and active eq true`, `userName`, `userName eq "a`, `userName eq "` + strings.Repeat("a", 600) + `"`} {
		if w := scim(s, "GET", "Users?filter="+url.QueryEscape(bad), ""); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, w.Code, w.Body)
		}
	}
	if w := scim(s, "GET", "Users?startIndex=1&count=2", ""); answerOf(t, w)["totalResults"] != 0.0 {
		t.Errorf("all users: %s", w.Body)
	}
}

// What is ignored finds nobody, so that the client creates the user with all its names.
func TestScimMapping(t *testing.T) {
	g := newRig(t)
	s := g.scim()
	upn := func(method, path, body string) *httptest.ResponseRecorder {
		return ask(s, method, "/scim/v2/upn/"+path, body, "Authorization", "Bearer upn-"+scimToken, "Content-Type", "application/json")
	}
	if w := upn("GET", "Users?filter="+url.QueryEscape(`externalId eq "alice"`), ""); answerOf(t, w)["totalResults"] != 0.0 {
		t.Errorf("by an attribute that is ignored: %s", w.Body)
	}
	if w := upn("POST", "Users", `{"userName":"a@x.example","externalId":"alice","active":false}`); w.Code != http.StatusCreated {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if did := g.sessions.taken(); !slices.Equal(did, []string{endMail}) {
		t.Errorf("did %q", did)
	}
	if w := upn("POST", "Users", `{"externalId":"alice","active":false}`); w.Code != http.StatusBadRequest {
		t.Errorf("nobody who could be known: %d %s", w.Code, w.Body)
	}
	if w := upn("DELETE", "Users/"+encodeID("", "alice"), ""); w.Code != http.StatusNotFound {
		t.Errorf("a user of another configuration: %d", w.Code)
	}
}

func TestScimRefusals(t *testing.T) {
	g := newRig(t)
	s := g.scim()
	for name, w := range map[string]*httptest.ResponseRecorder{
		"no token":              ask(s, "DELETE", "/scim/v2/hr/Users/"+both, ""),
		"another's token":       ask(s, "DELETE", "/scim/v2/hr/Users/"+both, "", "Authorization", "Bearer upn-"+scimToken),
		"two tokens":            scim(s, "DELETE", "Users/"+both, "", "Authorization", "Bearer "+scimToken),
		"no token, nothing":     ask(s, "GET", "/scim/v2/hr/nothing", ""),
		"no token, what it can": ask(s, "GET", "/scim/v2/hr/ServiceProviderConfig", ""),
	} {
		if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") != "Bearer" || answerOf(t, w)["status"] != "401" {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if w := ask(s, "GET", "/scim/v2/nobody/Users", "", "Authorization", "Bearer "+scimToken); w.Code != http.StatusNotFound {
		t.Errorf("a provisioner that is not there: %d", w.Code)
	}
	if w := ask(s, "POST", "/scim/v2/hr/Users", `{"userName":"a"}`, "Authorization", "Bearer "+scimToken, "Content-Type", "text/plain"); w.Code != http.StatusUnsupportedMediaType {
		t.Errorf("text: %d", w.Code)
	}
	g.sessions.taken()
	g.sessions.set(errors.New("disk full"))
	if w := scim(s, "DELETE", "Users/"+both, ""); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "disk") || g.counts.of(ScimFailed) != 1 {
		t.Errorf("sessions that cannot be ended: %d %s", w.Code, w.Body)
	}
	g.sessions.set(nil)
	codes := map[int]int{}
	for range 100 {
		codes[ask(s, "GET", "/scim/v2/hr/Users", "", "Authorization", "Bearer x").Code]++
	}
	if codes[http.StatusTooManyRequests] < 30 || g.counts.of(ScimLimited) != codes[http.StatusTooManyRequests] {
		t.Errorf("answers to a hundred wrong tokens: %v", codes)
	}
	if w := scim(s, "GET", "Users", ""); w.Code != http.StatusOK {
		t.Errorf("the client, at an address that is limited: %d", w.Code)
	}
	if strings.Contains(g.logs.String(), "scim-token") {
		t.Error("a token is in the log")
	}
}
