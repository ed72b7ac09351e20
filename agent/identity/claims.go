// SPDX-License-Identifier: Apache-2.0

package identity

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

	"github.com/curfew-proxy/curfew/agent/session"
)

// Limits on what a token may say.
const (
	maxSubject = 255 // OpenID Connect Core 1.0, section 2
	maxText    = 256 // bytes of a display name, e-mail address or group
	maxGroups  = 2000
)

// claims are the members of a JSON object by their exact names.
//
// encoding/json, and so go-oidc, matches names without regard to case and lets the last of
// several win: {"iss":"good","ISS":"evil"} comes out as evil. So the object is read here name by
// name, and refused if two names are the same but for case.
type claims map[string]json.RawMessage

func parseClaims(payload []byte) (claims, error) {
	if !utf8.Valid(payload) {
		return nil, errors.New("claims are not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("claims are not a JSON object")
	}
	all, folded := claims{}, map[string]string{}
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

// text returns a claim that is a string, or "" if there is none.
func (c claims) text(name string) (string, error) {
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

// texts returns a claim that is a string or an array of strings.
func (c claims) texts(name string) ([]string, error) { return texts(name, c[name]) }

func texts(name string, raw json.RawMessage) ([]string, error) {
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

// instant returns a NumericDate claim (RFC 7519, section 2), or the zero Time if there is none.
func (c claims) instant(name string) (time.Time, error) {
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

// at follows a JSON pointer (RFC 6901) if path starts with a slash, and takes it for the exact
// name of a claim if not: names with dots and slashes within are common.
func (c claims) at(path string) (json.RawMessage, error) {
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
		if c, err = parseClaims(raw); err != nil {
			return nil, fmt.Errorf("claim %s: %w", path, err)
		}
	}
	return nil, nil
}

// identity builds the Identity that the claims of a verified token describe.
func (c claims) identity(issuer, groupsClaim string) (id session.Identity, err error) {
	id.Issuer = issuer
	var errs [6]error
	id.Subject, errs[0] = c.subject()
	id.Name, errs[1] = c.displayName()
	id.Email, errs[2] = c.text("email")
	id.ACR, errs[3] = c.text("acr")
	id.AMR, errs[4] = c.texts("amr")
	id.AuthTime, errs[5] = c.instant("auth_time")
	if err := errors.Join(errs[:]...); err != nil {
		return session.Identity{}, err
	}
	id.Email = printable(id.Email)
	if id.Groups, err = c.groups(groupsClaim); err != nil {
		return session.Identity{}, err
	}
	for _, s := range append([]string{id.ACR}, id.AMR...) {
		if !isPrintable(s) || len(s) > maxText {
			return session.Identity{}, errors.New("claim acr or amr is too long or not printable")
		}
	}
	return id, nil
}

func (c claims) subject() (string, error) {
	sub, err := c.text("sub")
	switch {
	case err != nil:
		return "", err
	case sub == "":
		return "", errors.New("claim sub is missing or empty")
	case len(sub) > maxSubject:
		return "", fmt.Errorf("claim sub is longer than %d bytes", maxSubject)
	case !isPrintable(sub):
		return "", errors.New("claim sub has characters that are not printable")
	}
	return sub, nil
}

func (c claims) displayName() (string, error) {
	for _, claim := range []string{"name", "preferred_username"} {
		if s, err := c.text(claim); s != "" || err != nil {
			return printable(s), err
		}
	}
	return "", nil
}

// groups returns the user's groups. It refuses what it cannot read in full: a policy that keeps
// a group out must not let its members in because the group was not seen.
func (c claims) groups(claim string) ([]string, error) {
	raw, err := c.at(claim)
	if err != nil {
		return nil, err
	}
	if distributed, err := c.at("/_claim_names"); err == nil && raw == nil && distributed != nil {
		names, err := parseClaims(distributed)
		if _, elsewhere := names[claim]; elsewhere || err != nil {
			return nil, fmt.Errorf("claim %s is not in the token but elsewhere (_claim_names): the user is in too many groups", claim)
		}
	}
	groups, err := texts(claim, raw)
	if err != nil {
		return nil, err
	}
	if len(groups) > maxGroups {
		return nil, fmt.Errorf("claim %s has more than %d groups", claim, maxGroups)
	}
	for _, g := range groups {
		if g == "" || len(g) > maxText || !isPrintable(g) {
			return nil, fmt.Errorf("claim %s has a group that is empty, too long or not printable", claim)
		}
	}
	return groups, nil
}

func isPrintable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// printable makes text that is only shown to people fit to be shown.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
	for len(s) > maxText {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
