// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"strings"
)

// Match names the sessions that somebody outside speaks of. What is set must all match. The zero Match matches nothing.
type Match struct {
	Issuer  string
	Subject string
	SID     string // with Issuer: the provider's own session
	Email   string // of whoever the issuer says that it belongs to, in any case; any issuer if that is empty
	ID      ID     // one session, by the name that it has here
	// Unnamed leaves out the sessions of which the provider has said which of its own they are part of: Subject's at Issuer only.
	Unnamed bool
}

// Check says what is missing to know who is meant.
func (m Match) Check() error {
	if m.Subject == "" && m.SID == "" && m.Email == "" && m.ID.IsZero() {
		return errors.New("neither a subject nor a session is named")
	}
	if m.SID != "" && m.Issuer == "" {
		return errors.New("a session of a provider is named, and no provider")
	}
	if m.Unnamed && (m.Subject == "" || m.Issuer == "" || m.SID != "") {
		return errors.New("unnamed sessions are those of a subject and a provider")
	}
	return nil
}

// Matches reports whether a session is meant.
func (m Match) Matches(s *Session) bool {
	return m.Check() == nil && (m.Issuer == "" || s.Identity.Issuer == m.Issuer) && (m.Subject == "" || s.Identity.Subject == m.Subject) &&
		(m.SID == "" || s.SID == m.SID) && (m.Email == "" || strings.EqualFold(s.Identity.Email, m.Email)) && (m.ID.IsZero() || s.ID == m.ID) &&
		(!m.Unnamed || s.SID == "")
}
