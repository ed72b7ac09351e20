// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/test/jwt"
)

// Changes of groups have the provider asked about those who are named, and nothing else.
func TestScimGroups(t *testing.T) {
	g := newRig(t)
	s := g.scim()
	dba := encodeID("dba")
	askAll := askMail + ", " + askAlice
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
		want, counted            string
	}{
		{"create", "POST", "Groups", `{"displayName":"dba"}`, 201, "", "scim-ignored:1"},
		{"create with members", "POST", "Groups", `{"displayName":"dba","members":[{"value":"` + both + `"},{"value":"of another"}]}`, 201, askAll, "scim-reconsidered:1"},
		{"replace", "PUT", "Groups/" + dba, `{"displayName":"dba","members":[{"value":"` + onlyUPN + `"}]}`, 200, askMail, "scim-reconsidered:1"},
		{"add", "PATCH", "Groups/" + dba, `{"Operations":[{"op":"add","path":"members","value":[{"value":"` + onlyUPN + `"}]}]}`, 200, askMail, "scim-reconsidered:1"},
		{"add as Entra ID does", "PATCH", "Groups/" + dba, `{"Operations":[{"op":"Add","path":"members","value":[{"$ref":null,"value":"` + onlyUPN + `"}]}]}`, 200, askMail, "scim-reconsidered:1"},
		{"add one", "PATCH", "Groups/" + dba, `{"Operations":[{"op":"add","path":"members","value":{"value":"` + onlyUPN + `"}}]}`, 200, askMail, "scim-reconsidered:1"},
		{"add without path", "PATCH", "Groups/" + dba, `{"Operations":[{"op":"add","value":{"members":[{"value":"` + onlyUPN + `"}]}}]}`, 200, askMail, "scim-reconsidered:1"},
		{"remove", "PATCH", "Groups/" + dba, `{"Operations":[{"op":"remove","path":"members[value eq \"` + onlyUPN + `\"]"}]}`, 200, askMail, "scim-reconsidered:1"},
		{"remove by full name", "PATCH", "Groups/" + dba, `{"Operations":[{"op":"remove","path":"` + schemaGroup + `:Members[Value EQ \"` + onlyUPN + `\"]"}]}`, 200, askMail, "scim-reconsidered:1"},
		{"remove as Entra ID does", "PATCH", "Groups/" + dba, `{"Operations":[{"op":"Remove","path":"members","value":[{"value":"` + onlyUPN + `"}]}]}`, 200, askMail, "scim-reconsidered:1"},
		{"remove all", "PATCH", "Groups/" + dba, `{"Operations":[{"op":"remove","path":"members"}]}`, 200, "", "scim-ignored:1"},
		{"rename", "PATCH", "Groups/" + dba, `{"Operations":[{"op":"replace","path":"displayName","value":"x"}]}`, 200, "", "scim-ignored:1"},
		{"members that are groups", "PATCH", "Groups/" + dba, `{"Operations":[{"op":"add","path":"members","value":[{"value":"` + dba + `"}]}]}`, 200, "", "scim-ignored:1"},
		{"delete", "DELETE", "Groups/" + dba, ``, 204, "", "scim-ignored:1"},

		{"patch nothing", "PATCH", "Groups/" + both, `{"Operations":[{"op":"remove","path":"members"}]}`, 404, "", ""},
		{"replace nothing", "PUT", "Groups/x", `{"displayName":"dba"}`, 404, "", ""},
		{"delete nothing", "DELETE", "Groups/" + encodeID(""), ``, 404, "", ""},
		{"create without a name", "POST", "Groups", `{"members":[]}`, 400, "", "scim-refused:1"},
		{"name with a break", "POST", "Groups", `{"displayName":"a\nb"}`, 400, "", "scim-refused:1"},
		{"members is text", "POST", "Groups", `{"displayName":"dba","members":"x"}`, 400, "", "scim-refused:1"},
		{"member is text", "PATCH", "Groups/" + dba, `{"Operations":[{"op":"add","path":"members","value":["x"]}]}`, 400, "", "scim-refused:1"},
		{"member is a number", "PATCH", "Groups/" + dba, `{"Operations":[{"op":"add","path":"members","value":[{"value":1}]}]}`, 400, "", "scim-refused:1"},
		{"many members", "POST", "Groups", `{"displayName":"dba","members":[` + strings.Repeat(`{"value":"x"},`, 1000) + `{"value":"x"}]}`, 413, "", "scim-refused:1"},
		{"many members in parts", "PATCH", "Groups/" + dba, `{"Operations":[` + strings.Repeat(`{"op":"add","path":"members","value":[`+strings.Repeat(`{"value":"x"},`, 500)+`{"value":"x"}]},`, 2) + `{"op":"remove","path":"x"}]}`, 413, "", "scim-refused:1"},
	} {
		w := scim(s, tc.method, tc.path, tc.body)
		did, counted := strings.Join(g.sessions.taken(), ", "), g.counts.all()
		if w.Code != tc.status || did != tc.want || counted != tc.counted {
			t.Errorf("%s: %d %s, did %q, counted %s; want %d, %q, %s", tc.name, w.Code, w.Body, did, counted, tc.status, tc.want, tc.counted)
		}
	}
}

func TestScimFindsGroups(t *testing.T) {
	g := newRig(t)
	s := g.scim()
	w := scim(s, "GET", "Groups?excludedAttributes=members&filter="+url.QueryEscape(`displayName eq "dba"`), "")
	group := answerOf(t, w)["Resources"].([]any)[0].(object)
	if group["id"] != encodeID("dba") || group["displayName"] != "dba" {
		t.Errorf("%v", group)
	}
	if got := answerOf(t, scim(s, "GET", "Groups/"+group["id"].(string), "")); got["displayName"] != "dba" {
		t.Errorf("%v", got)
	}
	if w := scim(s, "GET", "Groups", ""); answerOf(t, w)["totalResults"] != 0.0 {
		t.Errorf("all groups: %s", w.Body)
	}
}

func TestScimCapabilities(t *testing.T) {
	g := newRig(t)
	s := g.scim()
	if c := answerOf(t, scim(s, "GET", "ServiceProviderConfig", "")); c["patch"].(object)["supported"] != true || c["bulk"].(object)["supported"] != false {
		t.Errorf("%v", c)
	}
	for _, list := range []string{"ResourceTypes", "Schemas"} {
		resources := answerOf(t, scim(s, "GET", list, ""))["Resources"].([]any)
		if len(resources) != 2 {
			t.Errorf("%s: %v", list, resources)
		}
		for _, one := range resources {
			id := one.(object)["id"].(string)
			if got := answerOf(t, scim(s, "GET", list+"/"+id, "")); got["id"] != id {
				t.Errorf("%s/%s: %v", list, id, got)
			}
		}
		if w := scim(s, "GET", list+"/x", ""); w.Code != http.StatusNotFound {
			t.Errorf("%s/x: %d", list, w.Code)
		}
	}
}

func TestIdentifiers(t *testing.T) {
	for _, names := range [][]string{{"a", "b"}, {"", ""}, {"a\"b", "\u00e9"}, {strings.Repeat("a", 512), "x"}} {
		if got, ok := decodeID(encodeID(names...), 2); !ok || !slices.Equal(got, names) {
			t.Errorf("%q: %q, %v", names, got, ok)
		}
	}
}

// A user has one identifier only, or what is done by one could not be found by another.
func TestIdentifiersInOtherWriting(t *testing.T) {
	for _, text := range []string{`["a", "b"]`, `["a","b"] `, `["\u0061","b"]`, `["a",null]`, `["a"]`, `["a","b","c"]`, `{}`, ``} {
		if names, ok := decodeID(jwt.Encode([]byte(text)), 2); ok {
			t.Errorf("%s: %q", text, names)
		}
	}
}

func TestProvisionersOfNoUse(t *testing.T) {
	g := newRig(t)
	good := Provisioner{Name: "hr", Tokens: []string{scimToken}, Issuer: provider}
	for want, change := range map[string]func(*Provisioner){
		"name": func(p *Provisioner) { p.Name = "" }, "issuer": func(p *Provisioner) { p.Issuer = "" }, "tokens: missing": func(p *Provisioner) { p.Tokens = nil },
		"tokens: one": func(p *Provisioner) { p.Tokens = []string{"x"} }, "user_name \"x\"": func(p *Provisioner) { p.UserName = "x" },
		"external_id \"sid\"": func(p *Provisioner) { p.ExternalID = IsSID }, "nobody can be meant": func(p *Provisioner) { p.UserName = Ignores },
	} {
		p := good
		change(&p)
		c := g.config()
		c.Provisioners = []Provisioner{p}
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want it to name %s", err, want)
		}
	}
	c := g.config()
	c.Provisioners = []Provisioner{good, good}
	if _, err := New(c); err == nil {
		t.Error("two of a name")
	}
}
