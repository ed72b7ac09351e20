// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// verifyIDToken checks a token from the token endpoint by OpenID Connect Core 1.0, section
// 3.1.3.7: signature, algorithm, issuer, audience and expiry through go-oidc, and here what
// that leaves to its caller, but for the nonce. It returns its claims.
func (p *Provider) verifyIDToken(ctx context.Context, m *metadata, raw, accessToken string) (jose.Claims, error) {
	if len(raw) > jose.MaxToken { // go-oidc accepts megabytes
		return nil, fmt.Errorf("is longer than %d bytes", jose.MaxToken)
	}
	if err := jose.CheckType(raw, jose.Untyped, jose.TypeJWT); err != nil {
		return nil, err
	}
	tok, err := m.verifier.Verify(oidc.ClientContext(ctx, m.client), raw)
	if err != nil {
		return nil, err
	}
	if tok.AccessTokenHash != "" {
		if err := tok.VerifyAccessToken(accessToken); err != nil {
			return nil, err
		}
	}
	var payload json.RawMessage
	if err := tok.Claims(&payload); err != nil {
		return nil, fmt.Errorf("read claims: %w", err)
	}
	c, err := jose.ParseClaims(payload)
	if err != nil {
		return nil, err
	}
	_, issued := c.CheckIssued(p.now())
	_, current := c.CheckCurrent(p.now()) // go-oidc lets nbf be five minutes ahead
	return c, errors.Join(m.checkParties(c), issued, current)
}

// checkParties checks who issued the token, and that it was issued to us and for us only.
func (s *settings) checkParties(c jose.Claims) error {
	iss, err := c.Text("iss")
	if err != nil {
		return err
	}
	// Google may leave out the scheme; go-oidc lets that pass for Google alone.
	if iss != s.cfg.Issuer && "https://"+iss != s.cfg.Issuer {
		return fmt.Errorf("claim iss is %q, want %q", iss, s.cfg.Issuer)
	}
	audiences, err := c.Texts("aud")
	if err != nil {
		return err
	}
	if !slices.Contains(audiences, s.cfg.ClientID) {
		return errors.New("claim aud does not name this client")
	}
	for _, aud := range audiences {
		if aud != s.cfg.ClientID && !slices.Contains(s.cfg.TrustedAudiences, aud) {
			return fmt.Errorf("claim aud names %q, which is not a trusted audience", aud)
		}
	}
	azp, err := c.Text("azp")
	if err != nil {
		return err
	}
	if _, present := c["azp"]; (present || len(audiences) > 1) && azp != s.cfg.ClientID {
		return fmt.Errorf("claim azp is %q, want this client", azp)
	}
	return nil
}

// checkNonce checks that the token was made for this sign-in. One that was to have none must not have that of another.
func checkNonce(c jose.Claims, want string) error {
	have, err := c.Text("nonce")
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(have), []byte(want)) != 1 {
		return errors.New("claim nonce is not the one of this sign-in")
	}
	return nil
}
