// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// MaxSubject is how many bytes a subject may have: OpenID Connect Core 1.0, section 2.
const MaxSubject = 255

// Claims are the members of a JSON object by their exact names. They are not changed by any method.
//
// encoding/json, and so go-oidc, matches names without regard to case and lets the last of
// several win: {"iss":"good","ISS":"evil"} comes out as evil. So the object is read here name by
// name, and refused if two names are the same but for case.
type Claims map[string]json.RawMessage

// ParseClaims reads an object of claims: the payload of a token, or its header. It returns an error for
// anything but one JSON object in UTF-8 whose names differ in more than case.
func ParseClaims(payload []byte) (Claims, error) {
	if !utf8.Valid(payload) {
		return nil, errors.New("claims are not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("claims are not a JSON object")
	}
	all, folded := Claims{}, map[string]string{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("read claims: %w", err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("read claims: %w", err)
		}
		n := name.(string) // the decoder admits nothing else here
		if other, dup := folded[fold(n)]; dup {
			return nil, fmt.Errorf("claims %q and %q are the same but for case", other, n)
		}
		folded[fold(n)], all[n] = n, value
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("read claims: %w", err)
	}
	if dec.More() {
		return nil, errors.New("claims are followed by more")
	}
	return all, nil
}

// fold maps names that encoding/json takes for equal to the same string. Lower-casing would not
// do: "iſs" (long s) is "iss" to it.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, name)
}

// Text returns a claim that is a string, or "" if there is none. Any other type is an error.
func (c Claims) Text(name string) (string, error) {
	raw, ok := c[name]
	if !ok || string(raw) == "null" {
		return "", nil
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", fmt.Errorf("claim %s is not a string", name)
	}
	return s, nil
}

// Texts returns a claim that is a string or an array of strings, or nil if there is none.
func (c Claims) Texts(name string) ([]string, error) { return Texts(name, c[name]) }

// Texts returns the value of a claim, such as Claims.At finds it, that is a string or an array of strings.
// The name is for errors.
func Texts(name string, raw json.RawMessage) ([]string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}, nil
	}
	var ptrs []*string // pointers, because null would pass for ""
	if json.Unmarshal(raw, &ptrs) != nil {
		return nil, fmt.Errorf("claim %s is not an array of strings", name)
	}
	many := make([]string, len(ptrs))
	for i, p := range ptrs {
		if p == nil {
			return nil, fmt.Errorf("claim %s is not an array of strings", name)
		}
		many[i] = *p
	}
	return many, nil
}

// Instant returns a NumericDate claim (RFC 7519, section 2), or the zero Time if there is none.
func (c Claims) Instant(name string) (time.Time, error) {
	raw, ok := c[name]
	if !ok || string(raw) == "null" {
		return time.Time{}, nil
	}
	var f float64
	if json.Unmarshal(raw, &f) != nil || f < 0 || f > 1<<40 {
		return time.Time{}, fmt.Errorf("claim %s is not a date", name)
	}
	sec, frac := math.Modf(f)
	return time.Unix(int64(sec), int64(frac*1e9)), nil
}

// At follows a JSON pointer (RFC 6901) if path starts with a slash, and takes it for the exact
// name of a claim if not: names with dots and slashes within are common. It returns nil if there is
// nothing, and an error if what it passes through is not a strict object.
func (c Claims) At(path string) (json.RawMessage, error) {
	if !strings.HasPrefix(path, "/") {
		return c[path], nil
	}
	steps := strings.Split(path[1:], "/")
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for i, step := range steps {
		raw := c[unescape.Replace(step)]
		if i == len(steps)-1 || raw == nil {
			return raw, nil
		}
		var err error
		if c, err = ParseClaims(raw); err != nil {
			return nil, fmt.Errorf("claim %s: %w", path, err)
		}
	}
	return nil, nil
}

// Subject returns the claim sub. One that is missing, empty, too long or not printable is an error: it is
// compared, logged and shown to people.
func (c Claims) Subject() (string, error) {
	sub, err := c.Text("sub")
	switch {
	case err != nil:
		return "", err
	case sub == "":
		return "", errors.New("claim sub is missing or empty")
	case len(sub) > MaxSubject:
		return "", fmt.Errorf("claim sub is longer than %d bytes", MaxSubject)
	case !IsPrintable(sub):
		return "", errors.New("claim sub has characters that are not printable")
	}
	return sub, nil
}

// Values returns the claims as they are for expressions: string, bool, int64 where a number is whole, float64
// where it is not, nil, []any and map[string]any.
func (c Claims) Values() (map[string]any, error) {
	values := make(map[string]any, len(c))
	for name, raw := range c {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber() // identifiers can be longer than a float64 is exact
		var v any
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("claim %s: %w", name, err)
		}
		values[name] = plain(v)
	}
	return values, nil
}

// plain replaces the numbers within a JSON value.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, _ := v.Float64() // infinite if it is out of range
		return f
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	}
	return v
}
