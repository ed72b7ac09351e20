// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Discover reads what an issuer says of itself (OpenID Connect Discovery 1.0, section 4) into doc, a pointer to a struct. Its
// errors have nothing of the answer in them but what Printable leaves of a name; go-oidc's have all of it, and so had the log.
func Discover(ctx context.Context, client *http.Client, issuer string, doc any) error {
	body, err := get(ctx, client, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	if err := readDiscovery(body, issuer, doc); err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	return nil
}

func readDiscovery(body []byte, issuer string, doc any) error {
	c, err := ParseClaims(body)
	if err != nil {
		return err
	}
	name, err := c.Text("issuer")
	if err != nil {
		return err
	}
	if name != issuer { // section 4.3: or one issuer could speak for another
		return fmt.Errorf("the issuer calls itself %q, not %q", Printable(name), issuer)
	}
	return json.Unmarshal(body, doc)
}

// discoverKeys returns the jwks_uri of an issuer's discovery document.
func discoverKeys(ctx context.Context, client *http.Client, issuer string) (string, error) {
	var doc struct {
		Keys string `json:"jwks_uri"`
	}
	if err := Discover(ctx, client, issuer, &doc); err != nil {
		return "", err
	}
	if err := CheckEndpoint(doc.Keys); err != nil {
		return "", fmt.Errorf("discover: jwks_uri: %w", err)
	}
	return doc.Keys, nil
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
