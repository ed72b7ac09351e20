// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxText is how many bytes Printable leaves of a text; callers bound groups and the like by it.
const MaxText = 256

// IsPrintable reports whether every character of s can be shown: no controls, no marks that turn the
// direction of writing.
func IsPrintable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// Printable makes text that is only shown to people fit to be shown: what cannot be is left out, and what
// is beyond MaxText cut off. It is not for text that is compared.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
	for len(s) > MaxText {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
