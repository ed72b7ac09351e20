// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/oauth2"
)

// post sends a form to an endpoint of the provider, as the client that we are: with the secret in the header or, where the
// provider has it so, in the form (RFC 6749, section 2.3.1). It takes form over. The caller closes the answer's body.
func (m *metadata) post(ctx context.Context, endpoint string, form url.Values) (*http.Response, error) {
	inHeader := m.oauth.Endpoint.AuthStyle == oauth2.AuthStyleInHeader
	if !inHeader {
		form.Set("client_id", m.cfg.ClientID)
		if m.cfg.ClientSecret != "" {
			form.Set("client_secret", m.cfg.ClientSecret)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if inHeader { // encoded first, says the same section
		req.SetBasicAuth(url.QueryEscape(m.cfg.ClientID), url.QueryEscape(m.cfg.ClientSecret))
	}
	return m.client.Do(req)
}
