// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// minToken is how many characters a bearer token must have: then it cannot be guessed, if it is random. `openssl rand -hex 32`
// makes one.
const minToken = 32

// bearerToken is the grammar of RFC 6750, section 2.1.
var bearerToken = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

func checkTokens(tokens []string) error {
	for _, t := range tokens {
		switch {
		case len(t) < minToken:
			return fmt.Errorf("one has %d characters, want at least %d", len(t), minToken)
		case !bearerToken.MatchString(t):
			return errors.New("one has characters that a bearer token cannot have")
		}
	}
	return nil
}

// secrets are bearer tokens that are accepted, known by their hashes. Several are for the time in which one takes the
// place of another.
type secrets [][sha256.Size]byte

func secretsOf(tokens []string) secrets {
	s := make(secrets, len(tokens))
	for i, t := range tokens {
		s[i] = sha256.Sum256([]byte(t))
	}
	return s
}

// accept reports whether token is one of the secrets; how long it takes says nothing about them.
func (s secrets) accept(token string) bool {
	sum := sha256.Sum256([]byte(token))
	found := 0
	for i := range s {
		found |= subtle.ConstantTimeCompare(s[i][:], sum[:])
	}
	return token != "" && found == 1
}

// bearer returns the bearer token of a request (RFC 6750, section 2.1), or "".
func bearer(r *http.Request) string {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return token
}

// oneOf checks a field that may be empty.
func oneOf(field, have string, want ...string) error {
	if have == "" || slices.Contains(want, have) {
		return nil
	}
	return fmt.Errorf("%s %q: want one of %s", field, have, strings.Join(want, ", "))
}
