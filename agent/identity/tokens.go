// SPDX-License-Identifier: Apache-2.0

package identity

import "bytes"

// Tokens are what a provider issued at a sign-in. They stay in this package's memory, are sent
// to nobody but that provider, and are wiped when their session ends.
//
// The slices can be wiped; the strings that encoding/json and x/oauth2 make of them on the way
// in and out cannot, and are left to the garbage collector.
type Tokens struct {
	Refresh, Access, IDToken []byte
}

// Wipe overwrites and drops the tokens.
func (t *Tokens) Wipe() {
	for _, b := range []*[]byte{&t.Refresh, &t.Access, &t.IDToken} {
		clear(*b)
		*b = nil
	}
}

func (t *Tokens) clone() Tokens {
	return Tokens{bytes.Clone(t.Refresh), bytes.Clone(t.Access), bytes.Clone(t.IDToken)}
}

// Empty reports whether there is nothing to revoke.
func (t *Tokens) Empty() bool { return len(t.Refresh) == 0 && len(t.Access) == 0 }

// String keeps tokens out of logs.
func (t Tokens) String() string { return "[tokens]" }

// GoString keeps tokens out of logs.
func (t Tokens) GoString() string { return "[tokens]" }
