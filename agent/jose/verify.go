// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxToken bounds the text of a token, in bytes.
const MaxToken = 64 << 10

// Errors of Verifier.Verify that tell whose token it is not.
var (
	ErrIssuer   = errors.New("claim iss")
	ErrAudience = errors.New("claim aud")
)

// Verifier checks what tokens of every kind have in common. It is immutable and safe for concurrent use.
type Verifier struct {
	Keys     *KeySet
	Issuer   string // exactly
	Audience string // exactly: us
	// TrustedAudiences may stand beside Audience. Any other makes the token one that was made for somebody
	// else too, who could present it here.
	TrustedAudiences []string
	Types            []string // see CheckType
	Algorithms       []string // see Algorithms
	Patient          bool     // wait for keys; see KeySet.VerifyPatiently
}

// Verify returns the claims of a token by its issuer and for us: size, type, algorithm, signature, strict
// claims, issuer and audience have been checked (RFC 8725). Whether it is too old, and what it says, is the
// caller's business. The error wraps ErrNoKeys where nothing can be said about the token.
func (v *Verifier) Verify(ctx context.Context, token string) (Claims, error) {
	if len(token) > MaxToken {
		return nil, fmt.Errorf("is longer than %d bytes", MaxToken)
	}
	if _, err := Unverified(token); err != nil {
		return nil, err
	}
	head, err := header(token)
	if err != nil {
		return nil, err
	}
	if err := head.checkType(v.Types); err != nil {
		return nil, err
	}
	alg, err := head.Text("alg")
	if err != nil {
		return nil, err
	}
	if !slices.Contains(v.Algorithms, alg) {
		return nil, fmt.Errorf("is signed by algorithm %q, want %s", Printable(alg), strings.Join(v.Algorithms, ", "))
	}
	verify := v.Keys.VerifySignature
	if v.Patient {
		verify = v.Keys.VerifyPatiently
	}
	payload, err := verify(ctx, token)
	if err != nil {
		return nil, err
	}
	c, err := ParseClaims(payload)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(v.checkIssuer(c), v.checkAudience(c)); err != nil {
		return nil, err
	}
	return c, nil
}

func (v *Verifier) checkIssuer(c Claims) error {
	iss, err := c.Text("iss")
	if err == nil && iss != v.Issuer {
		err = fmt.Errorf("%w is %q, want %q", ErrIssuer, Printable(iss), v.Issuer)
	}
	return err
}

func (v *Verifier) checkAudience(c Claims) error {
	audiences, err := c.Texts("aud")
	if err != nil {
		return err
	}
	if !slices.Contains(audiences, v.Audience) {
		return fmt.Errorf("%w does not name %q", ErrAudience, v.Audience)
	}
	for _, aud := range audiences {
		if aud != v.Audience && !slices.Contains(v.TrustedAudiences, aud) {
			return fmt.Errorf("%w names %q, which is not a trusted audience", ErrAudience, Printable(aud))
		}
	}
	return nil
}

// SignedPart returns what the signature of a token is about: two tokens are the same if it is. The signature
// itself would not do to tell, since whoever has one by an elliptic curve can make another of it.
func SignedPart(token string) string { return token[:max(0, strings.LastIndexByte(token, '.'))] }

// Unverified reads the claims of a token that nobody has checked: to find out whose it claims to be, and
// nothing else. It returns an error if the token is not in the one form that a token has: decoders skip line
// breaks and stray bits, so the same token could be written in many ways (RFC 4648, section 3.5).
func Unverified(token string) (Claims, error) {
	parts := strings.Split(token, ".")
	if len(token) > MaxToken || len(parts) != 3 {
		return nil, errors.New("is not a signed token in compact form")
	}
	var payload []byte
	for i, part := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || strings.ContainsAny(part, "\r\n") {
			return nil, errors.New("is not base64url")
		}
		if i == 1 {
			payload = b
		}
	}
	return ParseClaims(payload)
}
