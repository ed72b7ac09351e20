// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	gojose "github.com/go-jose/go-jose/v4"
)

// minRSABits is the least that RSA keys must have: RFC 7518, section 3.3.
const minRSABits = 2048

// parseKeys returns the public signing keys of a JWK Set (RFC 7517). It leaves out those that it does not
// know (section 5), and those that are too weak or for something else.
func parseKeys(body []byte) ([]gojose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(body, &set) != nil {
		return nil, errors.New("are not a JWK Set")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("are more than %d", maxKeys)
	}
	var keys []gojose.JSONWebKey
	for _, raw := range set.Keys {
		var key gojose.JSONWebKey
		if key.UnmarshalJSON(raw) == nil && usable(key) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("are none that can be used in the JWK Set")
	}
	return keys, nil
}

func usable(key gojose.JSONWebKey) bool {
	if public, ok := key.Key.(*rsa.PublicKey); ok && public.N.BitLen() < minRSABits {
		return false
	}
	return key.IsPublic() && key.Valid() && (key.Use == "" || key.Use == "sig") &&
		(key.Algorithm == "" || slices.Contains(asymmetric, key.Algorithm))
}

// discoverKeys returns the jwks_uri of an issuer's discovery document.
func discoverKeys(ctx context.Context, client *http.Client, issuer string) (string, error) {
	body, err := get(ctx, client, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", fmt.Errorf("discover: %w", err)
	}
	doc, err := ParseClaims(body)
	if err != nil {
		return "", fmt.Errorf("discover: %w", err)
	}
	name, err1 := doc.Text("issuer")
	url, err2 := doc.Text("jwks_uri")
	if err := errors.Join(err1, err2); err != nil {
		return "", fmt.Errorf("discover: %w", err)
	}
	if name != issuer { // section 4.3: or one issuer could speak for another
		return "", fmt.Errorf("discover: the issuer calls itself %q, not %q", Printable(name), issuer)
	}
	if err := CheckEndpoint(url); err != nil {
		return "", fmt.Errorf("discover: jwks_uri: %w", err)
	}
	return url, nil
}

// get returns the body of a successful answer. Its errors have nothing of the answer in them.
func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Cache-Control", "no-cache")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d", url, resp.StatusCode)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", url, err)
	}
	return body, nil
}
