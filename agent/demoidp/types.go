// SPDX-License-Identifier: Apache-2.0

package demoidp

import (
	"crypto/ecdsa"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// authRequest is a sign-in under way: op.AuthRequest. Immutable.
type authRequest struct {
	*oidc.AuthRequest
	id       string
	created  time.Time
	subject  string // empty until the user has signed in
	authTime time.Time
}

func (r *authRequest) GetID() string          { return r.id }
func (r *authRequest) GetACR() string         { return "" }
func (r *authRequest) GetAMR() []string       { return []string{"user"} } // RFC 8176: somebody was there
func (r *authRequest) GetAudience() []string  { return []string{r.ClientID} }
func (r *authRequest) GetAuthTime() time.Time { return r.authTime }
func (r *authRequest) GetClientID() string    { return r.ClientID }
func (r *authRequest) GetNonce() string       { return r.Nonce }
func (r *authRequest) GetScopes() []string    { return r.Scopes }
func (r *authRequest) GetSubject() string     { return r.subject }
func (r *authRequest) Done() bool             { return r.subject != "" }

func (r *authRequest) GetCodeChallenge() *oidc.CodeChallenge {
	if r.CodeChallenge == "" {
		return nil
	}
	return &oidc.CodeChallenge{Challenge: r.CodeChallenge, Method: r.CodeChallengeMethod}
}

// refreshRequest is op.RefreshTokenRequest.
type refreshRequest struct {
	*grant
	clientID string
	scopes   []string
}

func (r *refreshRequest) GetAMR() []string            { return r.amr }
func (r *refreshRequest) GetAuthTime() time.Time      { return r.authTime }
func (r *refreshRequest) GetClientID() string         { return r.clientID }
func (r *refreshRequest) GetScopes() []string         { return r.scopes }
func (r *refreshRequest) SetCurrentScopes(s []string) { r.scopes = s }

// relyingParty is the one client: op.Client.
type relyingParty struct{ cfg Config }

func (c relyingParty) GetID() string                       { return c.cfg.ClientID }
func (c relyingParty) RedirectURIs() []string              { return []string{c.cfg.RedirectURL} }
func (c relyingParty) PostLogoutRedirectURIs() []string    { return nil }
func (c relyingParty) ApplicationType() op.ApplicationType { return op.ApplicationTypeWeb }
func (c relyingParty) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethodBasic }
func (c relyingParty) LoginURL(id string) string           { return loginPath + "?id=" + id }
func (c relyingParty) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeBearer }
func (c relyingParty) IDTokenLifetime() time.Duration      { return accessLifetime }
func (c relyingParty) DevMode() bool                       { return false }
func (c relyingParty) IsScopeAllowed(string) bool          { return false }
func (c relyingParty) ClockSkew() time.Duration            { return 0 }

// IDTokenUserinfoClaimsAssertion has the user's claims in the ID token, as with most providers.
func (c relyingParty) IDTokenUserinfoClaimsAssertion() bool { return true }

func (c relyingParty) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}

func (c relyingParty) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
}

func (c relyingParty) RestrictAdditionalIdTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}

func (c relyingParty) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}

// signingKey is op.SigningKey.
type signingKey struct {
	id      string
	private *ecdsa.PrivateKey
}

func (k signingKey) ID() string                                  { return k.id }
func (k signingKey) Key() any                                    { return k.private }
func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.ES256 }

// publicKey is op.Key.
type publicKey struct{ of signingKey }

func (k publicKey) ID() string                         { return k.of.id }
func (k publicKey) Key() any                           { return k.of.private.Public() }
func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k publicKey) Use() string                        { return "sig" }
