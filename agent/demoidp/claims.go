// SPDX-License-Identifier: Apache-2.0

package demoidp

import (
	"context"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// SetUserinfoFromRequest implements op.CanSetUserinfoFromRequest: it fills the ID token.
func (s *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, r op.IDTokenRequest, _ []string) error {
	return s.describe(info, r.GetSubject())
}

// SetUserinfoFromToken implements op.OPStorage: it fills the answer of the userinfo endpoint.
func (s *storage) SetUserinfoFromToken(_ context.Context, info *oidc.UserInfo, tokenID, subject, _ string) error {
	s.mu.Lock()
	_, ok := s.access[tokenID]
	s.mu.Unlock()
	if !ok {
		return errNotFound
	}
	return s.describe(info, subject)
}

func (s *storage) describe(info *oidc.UserInfo, subject string) error {
	u, err := s.user(subject)
	if err != nil {
		return err
	}
	info.Subject, info.Name, info.Email, info.EmailVerified = u.Name, u.Full, u.Email, true
	info.AppendClaims("groups", u.Groups)
	return nil
}

// The rest of op.OPStorage is for what this provider does not offer.

func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil // deprecated; SetUserinfoFromRequest does it
}

func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errNotFound
}

func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil // access tokens are opaque
}

func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errNotFound // no client signs anything
}

func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errNotFound
}
