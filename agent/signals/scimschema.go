// SPDX-License-Identifier: Apache-2.0

package signals

import "net/http"

// What this is able to do: RFC 7643, sections 5 to 7.

func (p *provisioner) serviceProvider(w http.ResponseWriter, _ *http.Request) error {
	no := map[string]any{"supported": false}
	writeJSON(w, contentSCIM, http.StatusOK, map[string]any{
		"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"},
		"patch":   map[string]any{"supported": true}, "filter": map[string]any{"supported": true, "maxResults": 1},
		"bulk":           map[string]any{"supported": false, "maxOperations": 0, "maxPayloadSize": 0},
		"changePassword": no, "sort": no, "etag": no,
		"authenticationSchemes": []any{map[string]any{"type": "oauthbearertoken", "name": "Bearer token", "description": "RFC 6750", "primary": true}},
	})
	return nil
}

func resourceTypes() []any {
	one := func(name, endpoint, schema string) any {
		return map[string]any{"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:ResourceType"}, "id": name, "name": name, "endpoint": endpoint, "schema": schema}
	}
	return []any{one("User", "/Users", schemaUser), one("Group", "/Groups", schemaGroup)}
}

func schemas() []any {
	attribute := func(name, kind string, more map[string]any) any {
		a := map[string]any{"name": name, "type": kind, "multiValued": false, "required": false, "mutability": "readWrite", "returned": "default",
			"uniqueness": "none", "caseExact": true}
		for k, v := range more {
			a[k] = v
		}
		return a
	}
	one := func(id, name string, attributes ...any) any {
		return map[string]any{"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:Schema"}, "id": id, "name": name, "attributes": attributes}
	}
	required := map[string]any{"required": true}
	members := map[string]any{"multiValued": true, "returned": "never", "subAttributes": []any{attribute("value", "string", nil)}}
	return []any{
		one(schemaUser, "User", attribute("userName", "string", required), attribute("externalId", "string", nil), attribute("active", "boolean", nil)),
		one(schemaGroup, "Group", attribute("displayName", "string", required), attribute("members", "complex", members)),
	}
}

func (p *provisioner) resourceTypes(w http.ResponseWriter, _ *http.Request) error {
	writeList(w, resourceTypes())
	return nil
}

func (p *provisioner) resourceType(w http.ResponseWriter, r *http.Request) error {
	return writeOne(w, resourceTypes(), r.PathValue("id"))
}

func (p *provisioner) schemas(w http.ResponseWriter, _ *http.Request) error {
	writeList(w, schemas())
	return nil
}

func (p *provisioner) schema(w http.ResponseWriter, r *http.Request) error {
	return writeOne(w, schemas(), r.PathValue("id"))
}

func writeOne(w http.ResponseWriter, list []any, id string) error {
	for _, one := range list {
		if one.(map[string]any)["id"] == id {
			writeJSON(w, contentSCIM, http.StatusOK, one)
			return nil
		}
	}
	return errNoResource
}
