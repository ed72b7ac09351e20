// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// maxGroups bounds what a token may say.
const maxGroups = 2000

// describe builds the Identity that the claims of a verified token describe.
func describe(c jose.Claims, issuer, groupsClaim string) (id session.Identity, err error) {
	id.Issuer = issuer
	var errs [6]error
	id.Subject, errs[0] = c.Subject()
	id.Name, errs[1] = displayName(c)
	id.Email, errs[2] = c.Text("email")
	id.ACR, errs[3] = c.Text("acr")
	id.AMR, errs[4] = c.Texts("amr")
	id.AuthTime, errs[5] = c.Instant("auth_time")
	if err := errors.Join(errs[:]...); err != nil {
		return session.Identity{}, err
	}
	id.Email = jose.Printable(id.Email)
	if id.Groups, err = groupsOf(c, groupsClaim); err != nil {
		return session.Identity{}, err
	}
	for _, s := range append([]string{id.ACR}, id.AMR...) {
		if !jose.IsPrintable(s) || len(s) > jose.MaxText {
			return session.Identity{}, errors.New("claim acr or amr is too long or not printable")
		}
	}
	return id, nil
}

func displayName(c jose.Claims) (string, error) {
	for _, claim := range []string{"name", "preferred_username"} {
		if s, err := c.Text(claim); s != "" || err != nil {
			return jose.Printable(s), err
		}
	}
	return "", nil
}

// groupsOf returns the user's groups. It refuses what it cannot read in full: a policy that keeps
// a group out must not let its members in because the group was not seen.
func groupsOf(c jose.Claims, claim string) ([]string, error) {
	raw, err := c.At(claim)
	if err != nil {
		return nil, err
	}
	if distributed, err := c.At("/_claim_names"); err == nil && raw == nil && distributed != nil {
		names, err := jose.ParseClaims(distributed)
		if _, elsewhere := names[claim]; elsewhere || err != nil {
			return nil, fmt.Errorf("claim %s is not in the token but elsewhere (_claim_names): the user is in too many groups", claim)
		}
	}
	groups, err := jose.Texts(claim, raw)
	if err != nil {
		return nil, err
	}
	if len(groups) > maxGroups {
		return nil, fmt.Errorf("claim %s has more than %d groups", claim, maxGroups)
	}
	for _, g := range groups {
		if g == "" || len(g) > jose.MaxText || !jose.IsPrintable(g) {
			return nil, fmt.Errorf("claim %s has a group that is empty, too long or not printable", claim)
		}
	}
	return groups, nil
}
