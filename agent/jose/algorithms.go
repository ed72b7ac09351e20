// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
)

var asymmetric = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512,
	oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA,
}

// Algorithms returns those of list that may sign a token, or all asymmetric ones if it is empty. Anything else
// in it is an error: with "none" or an HMAC, who can read a key can forge with it (RFC 8725, section 2.1).
func Algorithms(list []string) ([]string, error) {
	for _, alg := range list {
		if !slices.Contains(asymmetric, alg) {
			return nil, fmt.Errorf("algorithms: %q is not one of %s", alg, strings.Join(asymmetric, ", "))
		}
	}
	if len(list) == 0 {
		list = asymmetric
	}
	return slices.Clone(list), nil
}
