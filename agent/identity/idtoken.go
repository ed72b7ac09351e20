// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/curfew-proxy/curfew/agent/session"
)

const (
	// maxIDToken bounds the text of an ID token. go-oidc accepts megabytes.
	maxIDToken = 64 << 10
	// clockLeeway is how far the provider's clock may be ahead of ours.
	clockLeeway = time.Minute
)

// verifyIDToken checks a token from the token endpoint by OpenID Connect Core 1.0, section
// 3.1.3.7: signature, algorithm, issuer, audience and expiry through go-oidc, and here what
// that leaves to its caller. It returns the identity the token speaks of.
func (p *Provider) verifyIDToken(ctx context.Context, m *metadata, raw, accessToken, nonce string) (session.Identity, error) {
	if len(raw) > maxIDToken {
		return session.Identity{}, fmt.Errorf("is longer than %d bytes", maxIDToken)
	}
	if err := checkTyp(raw); err != nil {
		return session.Identity{}, err
	}
	tok, err := m.verifier.Verify(oidc.ClientContext(ctx, p.client), raw)
	if err != nil {
		return session.Identity{}, err
	}
	if tok.AccessTokenHash != "" {
		if err := tok.VerifyAccessToken(accessToken); err != nil {
			return session.Identity{}, err
		}
	}
	var payload json.RawMessage
	if err := tok.Claims(&payload); err != nil {
		return session.Identity{}, fmt.Errorf("read claims: %w", err)
	}
	c, err := parseClaims(payload)
	if err != nil {
		return session.Identity{}, err
	}
	if err := errors.Join(p.checkParties(c), checkNonce(c, nonce), checkIssuedAt(c, p.now())); err != nil {
		return session.Identity{}, err
	}
	return c.identity(p.cfg.Issuer, p.cfg.GroupsClaim)
}

// checkTyp admits tokens that call themselves JWT or nothing: not access tokens (at+jwt), logout
// tokens or security events signed with the same key (RFC 8725, section 3.11).
func checkTyp(raw string) error {
	head, _, _ := strings.Cut(raw, ".")
	b, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return errors.New("header is not base64url")
	}
	h, err := parseClaims(b)
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	typ, err := h.text("typ")
	if err != nil {
		return err
	}
	switch strings.TrimPrefix(strings.ToLower(typ), "application/") {
	case "", "jwt":
		return nil
	}
	return fmt.Errorf("is of type %q, want JWT", typ)
}

// checkParties checks who issued the token, and that it was issued to us and for us only.
func (p *Provider) checkParties(c claims) error {
	iss, err := c.text("iss")
	if err != nil {
		return err
	}
	// Google may leave out the scheme; go-oidc lets that pass for Google alone.
	if iss != p.cfg.Issuer && "https://"+iss != p.cfg.Issuer {
		return fmt.Errorf("claim iss is %q, want %q", iss, p.cfg.Issuer)
	}
	audiences, err := c.texts("aud")
	if err != nil {
		return err
	}
	if !slices.Contains(audiences, p.cfg.ClientID) {
		return errors.New("claim aud does not name this client")
	}
	for _, aud := range audiences {
		if aud != p.cfg.ClientID && !slices.Contains(p.cfg.TrustedAudiences, aud) {
			return fmt.Errorf("claim aud names %q, which is not a trusted audience", aud)
		}
	}
	azp, err := c.text("azp")
	if err != nil {
		return err
	}
	if _, present := c["azp"]; (present || len(audiences) > 1) && azp != p.cfg.ClientID {
		return fmt.Errorf("claim azp is %q, want this client", azp)
	}
	return nil
}

func checkNonce(c claims, want string) error {
	have, err := c.text("nonce")
	if err != nil {
		return err
	}
	if want == "" || subtle.ConstantTimeCompare([]byte(have), []byte(want)) != 1 {
		return errors.New("claim nonce is not the one of this sign-in")
	}
	return nil
}

func checkIssuedAt(c claims, now time.Time) error {
	if exp, err := c.instant("exp"); err != nil || exp.IsZero() {
		return errors.New("claim exp is missing or not a date")
	}
	iat, err := c.instant("iat")
	switch {
	case err != nil:
		return err
	case iat.IsZero():
		return errors.New("claim iat is missing")
	case iat.After(now.Add(clockLeeway)):
		return fmt.Errorf("claim iat is %s in the future: are the clocks right?", iat.Sub(now).Round(time.Second))
	}
	return nil
}
