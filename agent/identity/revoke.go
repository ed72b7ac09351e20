// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// ErrCannotRevoke is returned by Revoke where the provider has no revocation endpoint, or revokes no token of the kind.
var ErrCannotRevoke = errors.New("the provider cannot revoke it")

// errTokenType is the answer to a kind of token that the provider does not revoke (RFC 7009, section 2.2.1): access tokens
// that resource servers check by themselves.
var errTokenType = errors.New("unsupported_token_type")

const hintRefresh = "refresh_token"

// Revoke revokes tokens at the provider (RFC 7009), the refresh token first: most providers
// then revoke the whole grant. It wipes tokens when the provider has confirmed, and when there
// is nothing that could be revoked; else it returns why and leaves them for another try. An access token that cannot be
// revoked is no failure if the refresh token was: it expires soon. It works with a provider that was taken out of the
// configuration, too.
func (p *Provider) Revoke(ctx context.Context, tokens *Tokens) error {
	if tokens.Empty() {
		tokens.Wipe()
		return nil
	}
	m, err := p.known()
	if err != nil {
		return err
	}
	if m.revocation == "" {
		tokens.Wipe()
		return ErrCannotRevoke
	}
	var cannot error
	for _, t := range []struct {
		hint  string
		token []byte
	}{{hintRefresh, tokens.Refresh}, {"access_token", tokens.Access}} {
		if len(t.token) == 0 {
			continue
		}
		switch err := m.revokeOne(ctx, t.hint, t.token); {
		case !errors.Is(err, errTokenType):
			if err != nil {
				return fmt.Errorf("revoke %s: %w", t.hint, err)
			}
		case t.hint == hintRefresh || len(tokens.Refresh) == 0:
			cannot = fmt.Errorf("%w: %s: %w", ErrCannotRevoke, t.hint, err)
		}
	}
	tokens.Wipe()
	return cannot
}

func (m *metadata) revokeOne(ctx context.Context, hint string, token []byte) error {
	resp, err := m.post(ctx, m.revocation, url.Values{"token": {string(token)}, "token_type_hint": {hint}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // what cannot be read says nothing
	var answer struct {
		Error string `json:"error"`
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return nil
	case resp.StatusCode == http.StatusBadRequest && json.Unmarshal(body, &answer) == nil && answer.Error == errTokenType.Error():
		return errTokenType
	}
	return fmt.Errorf("the provider answered %s", resp.Status)
}
