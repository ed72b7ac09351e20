// SPDX-License-Identifier: Apache-2.0

package session

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strings"
)

// ID names a session: 128 random bits, never reused. Its text form is 26 lower-case
// characters of Crockford's base32 alphabet; ShortLen of them are shown to people.
type ID [16]byte

// ShortLen is how many characters of an ID are shown to people.
const ShortLen = 10

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID returns a fresh random ID.
func NewID() ID {
	var id ID
	_, _ = rand.Read(id[:]) // never fails: crypto/rand aborts the program instead (Go 1.24)
	return id
}

// ParseID is the inverse of ID.String.
func ParseID(s string) (ID, error) {
	var id ID
	b, err := idEncoding.DecodeString(strings.ToLower(s))
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("session id %q: want 26 characters of 0-9a-z without i, l, o, u", s)
	}
	copy(id[:], b)
	return id, nil
}

func (id ID) String() string { return idEncoding.EncodeToString(id[:]) }

// Short is the prefix of the text form that is shown to people.
func (id ID) Short() string { return id.String()[:ShortLen] }

// IsZero reports whether id is unset.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText and UnmarshalText make an ID a JSON string.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}

// Key names the client key that a session is bound to: the SHA-256 of the DER-encoded
// SubjectPublicKeyInfo of the client's certificate (the self-signed mode of RFC 8705).
type Key [sha256.Size]byte

// KeyOf returns the Key of a certificate.
func KeyOf(c *x509.Certificate) Key { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

func (k Key) String() string { return hex.EncodeToString(k[:]) }

// IsZero reports whether k is unset.
func (k Key) IsZero() bool { return k == Key{} }

// MarshalText makes a Key a JSON string of hexadecimal digits.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Key) UnmarshalText(b []byte) error {
	if hex.DecodedLen(len(b)) != len(k) {
		return fmt.Errorf("client key: want %d hexadecimal digits, have %d", hex.EncodedLen(len(k)), len(b))
	}
	_, err := hex.Decode(k[:], b)
	return err
}
