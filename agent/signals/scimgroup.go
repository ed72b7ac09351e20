// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"encoding/json"
	"net/http"
	"regexp"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Groups are known by their names alone, and nothing is kept of their members: whoever is added or removed is asked about
// anew at the provider, whose word on groups is the one that counts.

// oneMember is the path of one member of a group.
var oneMember = regexp.MustCompile(`(?i)^(?:` + regexp.QuoteMeta(schemaGroup) + `:)?members\[\s*value\s+eq\s+"([A-Za-z0-9_-]+)"\s*\]$`)

func (p *provisioner) describeGroup(r *http.Request, name string) map[string]any {
	id := encodeID(name)
	return map[string]any{"schemas": []string{schemaGroup}, "id": id, "displayName": name,
		"meta": map[string]string{"resourceType": "Group", "location": p.location(r, "Groups", id)}}
}

// groupOf returns the name of the group that an identifier is of.
func groupOf(id string) (string, error) {
	names, ok := decodeID(id, 1)
	if !ok || checkGroup(names[0]) != nil {
		return "", errNoResource
	}
	return names[0], nil
}

func checkGroup(name string) error {
	if name == "" || len(name) > maxName || !jose.IsPrintable(name) {
		return badRequest("invalidValue", "displayName is missing, too long or not printable")
	}
	return nil
}

// findGroups finds the group that a filter names.
func (p *provisioner) findGroups(w http.ResponseWriter, r *http.Request) error {
	resources := []any{}
	if filter := r.URL.Query().Get("filter"); filter != "" {
		attribute, value, err := parseFilter(filter)
		if err != nil {
			return err
		}
		if attribute == "displayname" {
			if err := checkGroup(value); err != nil {
				return err
			}
			resources = append(resources, p.describeGroup(r, value))
		}
	}
	writeList(w, resources)
	return nil
}

func (p *provisioner) getGroup(w http.ResponseWriter, r *http.Request) error {
	name, err := groupOf(r.PathValue("id"))
	if err != nil {
		return err
	}
	writeJSON(w, contentSCIM, http.StatusOK, p.describeGroup(r, name))
	return nil
}

func (p *provisioner) createGroup(w http.ResponseWriter, r *http.Request) error {
	name, members, err := readGroup(w, r)
	if err != nil {
		return err
	}
	if err := p.regroup(r, members); err != nil {
		return err
	}
	w.Header().Set("Location", p.location(r, "Groups", encodeID(name)))
	writeJSON(w, contentSCIM, http.StatusCreated, p.describeGroup(r, name))
	return nil
}

// replaceGroup asks about those who are members now. Those who are not any more cannot be known.
func (p *provisioner) replaceGroup(w http.ResponseWriter, r *http.Request) error {
	if _, err := groupOf(r.PathValue("id")); err != nil {
		return err
	}
	name, members, err := readGroup(w, r)
	if err != nil {
		return err
	}
	if err := p.regroup(r, members); err != nil {
		return err
	}
	writeJSON(w, contentSCIM, http.StatusOK, p.describeGroup(r, name))
	return nil
}

func (p *provisioner) patchGroup(w http.ResponseWriter, r *http.Request) error {
	name, err := groupOf(r.PathValue("id"))
	if err != nil {
		return err
	}
	body, err := readScim(w, r)
	if err != nil {
		return err
	}
	members, err := parseGroupPatch(body)
	if err != nil {
		return err
	}
	if err := p.regroup(r, members); err != nil {
		return err
	}
	writeJSON(w, contentSCIM, http.StatusOK, p.describeGroup(r, name))
	return nil
}

func (p *provisioner) deleteGroup(w http.ResponseWriter, r *http.Request) error {
	if _, err := groupOf(r.PathValue("id")); err != nil {
		return err
	}
	if err := p.regroup(r, nil); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// regroup has the provider and policy asked again about those of the members that are users here.
func (p *provisioner) regroup(r *http.Request, members []string) error {
	var whom []session.Match
	for _, id := range members {
		if u, err := userOf(id); err == nil { // else it is a group, or of another service
			whom = append(whom, p.match(u)...)
		}
	}
	return p.apply(r, reconsider, whom, "groups changed")
}

func readGroup(w http.ResponseWriter, r *http.Request) (name string, members []string, err error) {
	body, err := readScim(w, r)
	if err != nil {
		return "", nil, err
	}
	o, err := parseResource(body)
	if err != nil {
		return "", nil, err
	}
	if name, err = o.text("displayName"); err != nil {
		return "", nil, err
	}
	if err := checkGroup(name); err != nil {
		return "", nil, err
	}
	members, err = parseMembers(o["members"])
	return name, members, err
}

// parseMembers returns the identifiers of members: an array of objects with a value, one of those, or nothing.
func parseMembers(raw json.RawMessage) ([]string, error) {
	if raw == nil || string(raw) == "null" {
		return nil, nil
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		list = []json.RawMessage{raw}
	}
	if len(list) > maxMembers {
		return nil, &scimError{http.StatusRequestEntityTooLarge, "tooMany", "too many members at once"}
	}
	ids := make([]string, len(list))
	for i, one := range list {
		o, err := parseResource(one)
		if err != nil {
			return nil, err
		}
		if ids[i], err = o.text("value"); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// parseGroupPatch returns the identifiers of all members that changes to a group name.
func parseGroupPatch(body []byte) ([]string, error) {
	ops, err := parsePatch(body)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, op := range ops {
		var ids []string
		switch one := oneMember.FindStringSubmatch(op.written); {
		case one != nil:
			ids = one[1:]
		case op.path == "members":
			ids, err = parseMembers(op.value)
		case op.path == "" && op.value != nil:
			var o resource
			if o, err = parseResource(op.value); err == nil {
				ids, err = parseMembers(o["members"])
			}
		}
		if err != nil {
			return nil, err
		}
		if all = append(all, ids...); len(all) > maxMembers {
			return nil, &scimError{http.StatusRequestEntityTooLarge, "tooMany", "too many members at once"}
		}
	}
	return all, nil
}
