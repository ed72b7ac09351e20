// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// ErrCannotRevoke is returned by Revoke where the provider has no revocation endpoint.
var ErrCannotRevoke = errors.New("the provider has no revocation endpoint")

// Revoke revokes tokens at the provider (RFC 7009), the refresh token first: most providers
// then revoke the whole grant. It wipes tokens when the provider has confirmed, and when there
// is nothing that could be revoked; else it returns why and leaves them for another try.
func (p *Provider) Revoke(ctx context.Context, tokens *Tokens) error {
	if tokens.Empty() {
		tokens.Wipe()
		return nil
	}
	m, err := p.ready()
	if err != nil {
		return err
	}
	if m.revocation == "" {
		tokens.Wipe()
		return ErrCannotRevoke
	}
	for _, t := range []struct {
		hint  string
		token []byte
	}{{"refresh_token", tokens.Refresh}, {"access_token", tokens.Access}} {
		if len(t.token) == 0 {
			continue
		}
		if err := p.revokeOne(ctx, m, t.hint, t.token); err != nil {
			return fmt.Errorf("revoke %s: %w", t.hint, err)
		}
	}
	tokens.Wipe()
	return nil
}

func (p *Provider) revokeOne(ctx context.Context, m *metadata, hint string, token []byte) error {
	resp, err := p.post(ctx, m, m.revocation, url.Values{"token": {string(token)}, "token_type_hint": {hint}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // only so that the connection can be used again
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the provider answered %s", resp.Status)
	}
	return nil
}
