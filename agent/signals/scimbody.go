// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"encoding/json"
	"mime"
	"net/http"
	"strings"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// Limits on what a request may hold.
const (
	maxOperations = 100
	maxMembers    = 1000
)

// readScim reads a body of SCIM.
func readScim(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || ct != contentSCIM && ct != "application/json" {
		return nil, &scimError{http.StatusUnsupportedMediaType, "", "the content type is not " + contentSCIM}
	}
	body, err := readBody(w, r, maxScimBody)
	if err != nil {
		return nil, &scimError{http.StatusRequestEntityTooLarge, "", err.Error()}
	}
	return body, nil
}

// resource is a JSON object of SCIM, by the names of its members in lower case and without their schema: RFC 7643, section
// 2.1.
type resource map[string]json.RawMessage

// parseResource reads an object no two of whose members are the same.
func parseResource(raw []byte) (resource, error) {
	c, err := jose.ParseClaims(raw)
	if err != nil {
		return nil, badRequest("invalidSyntax", "%v", err)
	}
	o := make(resource, len(c))
	for name, value := range c {
		short := attributeName(name)
		if _, dup := o[short]; dup {
			return nil, badRequest("invalidSyntax", "two members are %s", jose.Printable(short))
		}
		o[short] = value
	}
	return o, nil
}

// text returns a member that is a string, or "" if there is none.
func (o resource) text(name string) (string, error) {
	raw := o[strings.ToLower(name)]
	if raw == nil || string(raw) == "null" {
		return "", nil
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", badRequest("invalidValue", "%s is not a string", name)
	}
	return s, nil
}

// truth reads a truth value. Entra ID writes it as a string.
func truth(raw json.RawMessage) (bool, error) {
	var b bool
	if json.Unmarshal(raw, &b) == nil && string(raw) != "null" {
		return b, nil
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		switch strings.ToLower(s) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
	}
	return false, badRequest("invalidValue", "active is neither true nor false")
}

// readUser reads a user that is created or replaced: who it is, and whether it is active.
func (p *provisioner) readUser(w http.ResponseWriter, r *http.Request) (scimUser, bool, error) {
	body, err := readScim(w, r)
	if err != nil {
		return scimUser{}, false, err
	}
	u, active, err := parseUser(body)
	if err == nil && len(p.match(u)) == 0 {
		err = badRequest("invalidValue", "neither userName nor externalId says who the user is")
	}
	return u, active, err
}

func parseUser(body []byte) (u scimUser, active bool, err error) {
	o, err := parseResource(body)
	if err != nil {
		return u, false, err
	}
	if u.userName, err = o.text("userName"); err != nil {
		return u, false, err
	}
	if u.externalID, err = o.text("externalId"); err != nil {
		return u, false, err
	}
	active = true
	if raw := o["active"]; raw != nil {
		if active, err = truth(raw); err != nil {
			return u, false, err
		}
	}
	return u, active, u.check()
}

// operation is one of a PatchOp: RFC 7644, section 3.5.2.
type operation struct {
	op, path string // in lower case, without schema
	written  string // the path as it came
	value    json.RawMessage
}

func parsePatch(body []byte) ([]operation, error) {
	o, err := parseResource(body)
	if err != nil {
		return nil, err
	}
	var raws []json.RawMessage
	if json.Unmarshal(o["operations"], &raws) != nil || len(raws) == 0 || len(raws) > maxOperations {
		return nil, badRequest("invalidSyntax", "want Operations, 1 to %d", maxOperations)
	}
	list := make([]operation, len(raws))
	for i, raw := range raws {
		one, err := parseResource(raw)
		if err != nil {
			return nil, err
		}
		op, err1 := one.text("op")
		path, err2 := one.text("path")
		if err1 != nil || err2 != nil {
			return nil, badRequest("invalidSyntax", "op or path is not a string")
		}
		op = strings.ToLower(op) // Entra ID writes Replace
		if op != "add" && op != "replace" && op != "remove" {
			return nil, badRequest("invalidSyntax", "op is none of add, replace and remove")
		}
		list[i] = operation{op, attributeName(path), path, one["value"]}
	}
	return list, nil
}

// parseUserPatch returns what changes to a user come to. Whatever says that the user is not active counts, also if
// something else says that it is.
func parseUserPatch(body []byte) (order, error) {
	ops, err := parsePatch(body)
	if err != nil {
		return leave, err
	}
	change := leave
	for _, op := range ops {
		active, groups := op.value, op.names("groups")
		switch {
		case op.path == "":
			o, err := parseResource(op.value)
			if err != nil {
				return leave, err
			}
			active, groups = o["active"], o["groups"] != nil
		case op.path != "active":
			active = nil
		case op.op == "remove" || active == nil:
			return leave, badRequest("invalidValue", "active cannot be without a value")
		}
		if active != nil {
			is, err := truth(active)
			if err != nil {
				return leave, err
			}
			if !is {
				change = end
			}
		}
		if groups {
			change = max(change, reconsider)
		}
	}
	return change, nil
}

// names reports whether an operation is about an attribute, or a part of it.
func (op *operation) names(attribute string) bool {
	return op.path == attribute || strings.HasPrefix(op.path, attribute+"[") || strings.HasPrefix(op.path, attribute+".")
}
