// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"fmt"
	"slices"
	"strings"

	gojose "github.com/go-jose/go-jose/v4"
)

// signatureAlgorithms are those that make a signature, and no mere checksum, of a token (RFC 7518, section
// 3.1; RFC 8037).
var signatureAlgorithms = []gojose.SignatureAlgorithm{
	gojose.RS256, gojose.RS384, gojose.RS512, gojose.ES256, gojose.ES384, gojose.ES512,
	gojose.PS256, gojose.PS384, gojose.PS512, gojose.EdDSA,
}

// asymmetric are the names of signatureAlgorithms.
var asymmetric = func() []string {
	names := make([]string, len(signatureAlgorithms))
	for i, alg := range signatureAlgorithms {
		names[i] = string(alg)
	}
	return names
}()

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
