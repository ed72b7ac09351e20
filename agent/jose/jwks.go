// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

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
