// SPDX-License-Identifier: Apache-2.0

package session

import (
	"slices"
	"time"
)

// Identity is who a session belongs to: what the provider (or an operator) said at sign-in.
// Issuer and Subject together are the identity; the rest describes it.
// An Identity is immutable once it is in a Session: replace it, do not change it.
type Identity struct {
	Issuer   string    `json:"issuer"`
	Subject  string    `json:"subject"`
	Name     string    `json:"name,omitempty"`
	Email    string    `json:"email,omitempty"`
	Groups   []string  `json:"groups,omitempty"`
	ACR      string    `json:"acr,omitempty"`
	AMR      []string  `json:"amr,omitempty"`
	AuthTime time.Time `json:"auth_time,omitzero"`
}

// Display is the friendliest name that the identity has.
func (i Identity) Display() string {
	switch {
	case i.Name != "":
		return i.Name
	case i.Email != "":
		return i.Email
	}
	return i.Subject
}

// HasGroup reports whether the identity is in group g.
func (i Identity) HasGroup(g string) bool {
	return slices.Contains(i.Groups, g)
}

// equalIdentity reports whether both say the same, to the instant of authentication.
func equalIdentity(a, b Identity) bool {
	return a.Issuer == b.Issuer && a.Subject == b.Subject && a.Name == b.Name && a.Email == b.Email &&
		a.ACR == b.ACR && slices.Equal(a.Groups, b.Groups) && slices.Equal(a.AMR, b.AMR) && a.AuthTime.Equal(b.AuthTime)
}
