// SPDX-License-Identifier: Apache-2.0

package session

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

// matches reports whether an entry matches all criteria but ID and Where. The table's lock is held.
func (s Selector) matches(e *entry) bool {
	var who Identity // nobody, of a tombstone
	if e.identity != nil {
		who = e.identity.Identity
	}
	return (s.Subject == "" || who.Subject == s.Subject || who.Email == s.Subject) &&
		(s.Group == "" || who.HasGroup(s.Group)) &&
		(s.Service == "" || e.hasConnection(s.Service))
}

func (e *entry) hasConnection(service string) bool {
	for c := range e.conns {
		if c.Service == service {
			return true
		}
	}
	return false
}
