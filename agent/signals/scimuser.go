// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// maxName is how many bytes a name of SCIM may have.
const maxName = 512

// Schemas of resources and messages: RFC 7643, section 8.7, and RFC 7644, section 8.2.
const (
	schemaUser  = "urn:ietf:params:scim:schemas:core:2.0:User"
	schemaGroup = "urn:ietf:params:scim:schemas:core:2.0:Group"
	schemaList  = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
)

// scimUser is all that is known of a user: what the client calls it. It is its own identifier.
type scimUser struct{ userName, externalID string }

// id is a name for a resource that says what it is: nothing has to be remembered.
func encodeID(names ...string) string {
	b, _ := json.Marshal(names) // strings: cannot fail
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeID is the inverse of encodeID, for n names. An identifier that was written in another way is none.
func decodeID(id string, n int) ([]string, bool) {
	b, err := base64.RawURLEncoding.DecodeString(id)
	var names []string
	if err != nil || json.Unmarshal(b, &names) != nil || len(names) != n || encodeID(names...) != id {
		return nil, false
	}
	return names, true
}

func (u scimUser) id() string { return encodeID(u.userName, u.externalID) }

// userOf returns the user that an identifier is of.
func userOf(id string) (scimUser, error) {
	names, ok := decodeID(id, 2)
	if !ok {
		return scimUser{}, errNoResource
	}
	u := scimUser{names[0], names[1]}
	if err := u.check(); err != nil {
		return scimUser{}, errNoResource
	}
	return u, nil
}

func (u scimUser) check() error {
	for name, v := range map[string]string{"userName": u.userName, "externalId": u.externalID} {
		if len(v) > maxName || !jose.IsPrintable(v) {
			return badRequest("invalidValue", "%s is too long or not printable", name)
		}
	}
	return nil
}

// match returns the sessions of a user: of whoever has either of its names.
func (p *provisioner) match(u scimUser) []session.Match {
	var list []session.Match
	for _, attribute := range []struct{ value, means string }{{u.userName, p.cfg.UserName}, {u.externalID, p.cfg.ExternalID}} {
		switch {
		case attribute.value == "":
		case attribute.means == IsEmail:
			list = append(list, session.Match{Issuer: p.cfg.Issuer, Email: attribute.value})
		case attribute.means == IsSubject:
			list = append(list, session.Match{Issuer: p.cfg.Issuer, Subject: attribute.value})
		}
	}
	return list
}

// named returns the user that a request is about. One with names that say nothing, as the configuration is now, is none.
func (p *provisioner) named(r *http.Request) (scimUser, error) {
	u, err := userOf(r.PathValue("id"))
	if err == nil && len(p.match(u)) == 0 {
		err = errNoResource
	}
	return u, err
}

// describeUser is a user as the client sees it.
func (p *provisioner) describeUser(r *http.Request, u scimUser, active bool) map[string]any {
	out := map[string]any{"schemas": []string{schemaUser}, "id": u.id(), "userName": u.userName, "active": active,
		"meta": map[string]string{"resourceType": "User", "location": p.location(r, "Users", u.id())}}
	if u.userName == "" {
		out["userName"] = u.externalID // it is required
	}
	if u.externalID != "" {
		out["externalId"] = u.externalID
	}
	return out
}

func (p *provisioner) location(r *http.Request, kind, id string) string {
	u := url.URL{Scheme: "https", Host: r.Host, Path: api.PathSCIM + p.cfg.Name + "/" + kind + "/" + id}
	return u.String()
}

// eqFilter is the one filter that is understood: of those of RFC 7644, section 3.4.2.2, clients use no other to find a
// user or group by its name.
var eqFilter = regexp.MustCompile(`^\s*([A-Za-z0-9:._-]+)\s+[eE][qQ]\s+("(?:[^"\\]|\\.)*")\s*$`)

// parseFilter returns an attribute, in lower case, and what it is to be.
func parseFilter(text string) (attribute, value string, err error) {
	m := eqFilter.FindStringSubmatch(text)
	if m == nil || json.Unmarshal([]byte(m[2]), &value) != nil {
		return "", "", badRequest("invalidFilter", `the filter is not of the form: attribute eq "value"`)
	}
	return attributeName(m[1]), value, nil
}

// attributeName is the name of an attribute without its schema, in lower case: RFC 7643, section 2.1.
func attributeName(path string) string {
	path = strings.ToLower(path)
	for _, schema := range []string{schemaUser, schemaGroup} {
		path = strings.TrimPrefix(path, strings.ToLower(schema)+":")
	}
	return path
}

// findUsers finds the one user that a filter names, by an attribute that says who it is. By any other nobody is found: the
// client then creates the user, with all its names.
func (p *provisioner) findUsers(w http.ResponseWriter, r *http.Request) error {
	resources := []any{}
	if filter := r.URL.Query().Get("filter"); filter != "" {
		attribute, value, err := parseFilter(filter)
		if err != nil {
			return err
		}
		var u scimUser
		switch attribute {
		case "username":
			u.userName = value
		case "externalid":
			u.externalID = value
		}
		if err := u.check(); err != nil {
			return err
		}
		if len(p.match(u)) > 0 {
			resources = append(resources, p.describeUser(r, u, true))
		}
	}
	writeList(w, resources)
	return nil
}

func writeList(w http.ResponseWriter, resources []any) {
	writeJSON(w, contentSCIM, http.StatusOK, map[string]any{"schemas": []string{schemaList}, "totalResults": len(resources),
		"startIndex": 1, "itemsPerPage": len(resources), "Resources": resources})
}

func (p *provisioner) createUser(w http.ResponseWriter, r *http.Request) error {
	u, active, err := p.readUser(w, r)
	if err != nil {
		return err
	}
	if !active {
		if err := p.apply(r, end, p.match(u), "user deactivated"); err != nil {
			return err
		}
	}
	w.Header().Set("Location", p.location(r, "Users", u.id()))
	writeJSON(w, contentSCIM, http.StatusCreated, p.describeUser(r, u, active))
	return nil
}

func (p *provisioner) getUser(w http.ResponseWriter, r *http.Request) error {
	u, err := p.named(r)
	if err != nil {
		return err
	}
	writeJSON(w, contentSCIM, http.StatusOK, p.describeUser(r, u, true))
	return nil
}

// replaceUser ends the sessions of the user that is replaced and, if it has other names now, of that too.
func (p *provisioner) replaceUser(w http.ResponseWriter, r *http.Request) error {
	u, err := p.named(r)
	if err != nil {
		return err
	}
	now, active, err := p.readUser(w, r)
	if err != nil {
		return err
	}
	o, whom := leave, p.match(u)
	if !active {
		o = end
		if now != u {
			whom = append(whom, p.match(now)...)
		}
	}
	if err := p.apply(r, o, whom, "user deactivated"); err != nil {
		return err
	}
	writeJSON(w, contentSCIM, http.StatusOK, p.describeUser(r, u, active))
	return nil
}

func (p *provisioner) deleteUser(w http.ResponseWriter, r *http.Request) error {
	u, err := p.named(r)
	if err != nil {
		return err
	}
	if err := p.apply(r, end, p.match(u), "user deleted"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (p *provisioner) patchUser(w http.ResponseWriter, r *http.Request) error {
	u, err := p.named(r)
	if err != nil {
		return err
	}
	body, err := readScim(w, r)
	if err != nil {
		return err
	}
	change, err := parseUserPatch(body)
	if err != nil {
		return err
	}
	what := map[order]string{end: "user deactivated", reconsider: "groups changed", leave: "user changed"}[change]
	if err := p.apply(r, change, p.match(u), what); err != nil {
		return err
	}
	writeJSON(w, contentSCIM, http.StatusOK, p.describeUser(r, u, change != end))
	return nil
}
