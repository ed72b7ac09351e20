// SPDX-License-Identifier: Apache-2.0

package session

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// Credential names a token that makes sessions of one client key only: who steals it later has nothing. Zero: none.
type Credential [16]byte

// CredentialOf returns the name of an issuer's token. The token is named by what is unique in it.
func CredentialOf(issuer, unique string) Credential {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s%s", len(issuer), issuer, unique))
	return Credential(sum[:16])
}

// IsZero reports whether c names nothing.
func (c Credential) IsZero() bool { return c == Credential{} }

func (c Credential) String() string { return hex.EncodeToString(c[:]) }

// MarshalText and UnmarshalText make a Credential a JSON string of hexadecimal digits.
func (c Credential) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Credential) UnmarshalText(b []byte) error {
	if hex.DecodedLen(len(b)) != len(c) {
		return fmt.Errorf("credential: want %d hexadecimal digits, have %d", hex.EncodedLen(len(c)), len(b))
	}
	_, err := hex.Decode(c[:], b)
	return err
}

// credentialUsedLocked reports whether a session is to be created with what made one of another key, live or ended.
func (t *Table) credentialUsedLocked(s *Session) bool {
	old := t.byCredential[s.Credential]
	return !s.Credential.IsZero() && old != nil && old.key != s.Key
}

func (t *Table) noteCredentialLocked(e *entry) {
	if !e.credential.IsZero() {
		t.byCredential[e.credential] = e
	}
}

// endReplayedLocked ends two sessions of different keys that were created with the same credential, on two nodes before
// either had heard of the other: one of the two stole it, and nobody knows which.
func (t *Table) endReplayedLocked(e, other *entry) (endings []Ending) {
	if e.credential.IsZero() || other == nil || other.key == e.key {
		return nil
	}
	end := End{Reason: ReasonReplayed, At: time.Unix(0, max(e.created, other.created)).UTC()}
	for _, x := range []*entry{e, other} {
		if x.ended == nil {
			endings = append(endings, t.endLocked(x, end))
		}
	}
	return endings
}
