// SPDX-License-Identifier: Apache-2.0

package session

import "strings"

// Selector chooses sessions. All criteria that are set must match; the zero Selector matches
// nothing, so that an empty request never ends everything.
type Selector struct {
	All     bool   // every session
	ID      string // a session's text id, or a prefix of it
	Subject string // the identity's subject, or its e-mail address
	Group   string // a group of the identity
	Service string // has a live connection to this service
	// Where is a further condition, or nil. It must not call back into the table.
	Where func(Session, []*Connection) bool
}

// IsZero reports whether no criterion is set.
func (s Selector) IsZero() bool {
	return !s.All && s.ID == "" && s.Subject == "" && s.Group == "" && s.Service == "" && s.Where == nil
}

func (s Selector) matches(v Session, conns []*Connection) bool {
	if s.IsZero() {
		return false
	}
	if s.ID != "" && !strings.HasPrefix(v.ID.String(), strings.ToLower(s.ID)) {
		return false
	}
	if s.Subject != "" && v.Identity.Subject != s.Subject && v.Identity.Email != s.Subject {
		return false
	}
	if s.Group != "" && !v.Identity.HasGroup(s.Group) {
		return false
	}
	if s.Service != "" && !hasService(conns, s.Service) {
		return false
	}
	return s.Where == nil || s.Where(v, conns)
}

func hasService(conns []*Connection, service string) bool {
	for _, c := range conns {
		if c.Service == service {
			return true
		}
	}
	return false
}
