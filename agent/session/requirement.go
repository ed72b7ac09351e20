// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// AuthLeeway is how far the provider's clock may differ from ours where the time of a sign-in counts.
const AuthLeeway = time.Minute

// Requirement is what a service asks of how its users were authenticated. The zero value asks for nothing.
type Requirement struct {
	ACR    []string      // one of these must be the identity's (OpenID Connect Core 1.0, section 2)
	AMR    []string      // all of these must be among the identity's (RFC 8176)
	MaxAge time.Duration // since the user was authenticated; zero: any
}

// Empty reports whether nothing is asked for.
func (r Requirement) Empty() bool { return len(r.ACR) == 0 && len(r.AMR) == 0 && r.MaxAge == 0 }

// Ageless is what is asked for of a sign-in of any age.
func (r Requirement) Ageless() Requirement { return Requirement{ACR: r.ACR, AMR: r.AMR} }

// Missing says what an identity lacks at an instant, for people, or returns "" if it has everything.
func (r Requirement) Missing(id Identity, now time.Time) string {
	var lacks []string
	if len(r.ACR) > 0 && !slices.Contains(r.ACR, id.ACR) {
		lacks = append(lacks, fmt.Sprintf("acr is %q, not one of %s", id.ACR, strings.Join(r.ACR, ", ")))
	}
	for _, method := range r.AMR {
		if !slices.Contains(id.AMR, method) {
			lacks = append(lacks, "amr lacks "+method)
		}
	}
	if r.MaxAge > 0 {
		age := now.Sub(id.AuthTime).Round(time.Second) // the longest possible if AuthTime is zero
		switch {
		case id.AuthTime.IsZero():
			lacks = append(lacks, "the provider does not say when you were authenticated (auth_time)")
		case age > r.MaxAge+AuthLeeway:
			lacks = append(lacks, fmt.Sprintf("you were authenticated %s ago, more than %s", age, r.MaxAge))
		case age < -AuthLeeway:
			lacks = append(lacks, fmt.Sprintf("you were authenticated %s in the future (auth_time)", -age))
		}
	}
	return strings.Join(lacks, "; ")
}
