// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Types of tokens: values of the header typ, in lower case and without "application/". Untyped stands for
// a header that has none.
const (
	Untyped      = ""
	TypeJWT      = "jwt"
	TypeAccess   = "at+jwt"       // RFC 9068
	TypeLogout   = "logout+jwt"   // OpenID Connect Back-Channel Logout 1.0
	TypeSecurity = "secevent+jwt" // RFC 8417
)

// CheckType admits tokens of the given types only, so that one that was signed for another purpose with the
// same key is not taken for one of these (RFC 8725, section 3.11). It does not check the signature.
func CheckType(token string, allowed ...string) error {
	h, err := header(token)
	if err != nil {
		return err
	}
	return h.checkType(allowed)
}

func (c Claims) checkType(allowed []string) error {
	typ, err := c.Text("typ")
	if err != nil {
		return err
	}
	if slices.Contains(allowed, strings.TrimPrefix(strings.ToLower(typ), "application/")) {
		return nil
	}
	return fmt.Errorf("is of type %q, want %s", Printable(typ), nameTypes(allowed))
}

// header reads the first part of a token, unverified.
func header(token string) (Claims, error) {
	head, _, _ := strings.Cut(token, ".")
	b, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return nil, errors.New("header is not base64url")
	}
	h, err := ParseClaims(b)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	return h, nil
}

// nameTypes lists types as people write them.
func nameTypes(types []string) string {
	var names []string
	for _, t := range types {
		switch t {
		case Untyped: // "want JWT" is clear enough
		case TypeJWT:
			names = append(names, "JWT")
		default:
			names = append(names, t)
		}
	}
	return strings.Join(names, " or ")
}
