// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Limits on subjects.
const (
	maxIdentifier = jose.MaxSubject
	maxEmail      = 320
	maxAliases    = 16
)

// notMeant says why a subject that is well-formed is nobody whom we could know. That is not reported to the
// transmitter: RFC 8935, section 2, forbids to answer with errors other than of parsing and validation, and SSF
// 1.0, section 9.3, those about subjects. It is counted and logged as a warning instead.
type notMeant struct {
	outcome string // EventUnmapped, EventForeign or EventCritical
	why     string
}

func (n *notMeant) Error() string { return n.why }

// role is what an identifier names.
type role int

const (
	anybody role = iota // the whole subject
	aUser
	aSession
)

// subjects finds out whom the subjects of a transmitter's events mean. It is immutable and safe for concurrent use.
type subjects struct {
	issuers  []string
	opaque   role // of identifiers of format opaque that are the whole subject
	sessions bool // identifiers of sessions are the claim sid
}

func subjectsOf(t *Transmitter) subjects {
	s := subjects{issuers: t.Issuers, opaque: aSession, sessions: t.SessionIDs != IsUnknown}
	if t.Opaque == MeansUser {
		s.opaque = aUser
	}
	return s
}

// find returns the sessions that a subject identifier means (RFC 9493, and SSF 1.0, section 3). The members of complex
// subjects that are critical must be understood. The error is a *notMeant, or says what is malformed.
func (s subjects) find(raw json.RawMessage, critical []string) ([]session.Match, error) {
	c, err := jose.ParseClaims(raw)
	if err != nil {
		return nil, fmt.Errorf("subject: %w", err)
	}
	format, err := formatOf(c)
	if err != nil {
		return nil, err
	}
	if format == "complex" {
		return s.complex(c, critical)
	}
	return s.simple(c, format, anybody)
}

// formatOf returns the format of an identifier. Complex subjects had none before SSF 1.0, and simple ones a
// subject_type with hyphens before RFC 9493.
func formatOf(c jose.Claims) (string, error) {
	format, err1 := c.Text("format")
	old, err2 := c.Text("subject_type")
	if err := errors.Join(err1, err2); err != nil {
		return "", fmt.Errorf("subject: %w", err)
	}
	switch {
	case format != "":
		return format, nil
	case old != "":
		return strings.ReplaceAll(old, "-", "_"), nil
	case c["user"] != nil || c["session"] != nil || c["device"] != nil || c["tenant"] != nil:
		return "complex", nil
	}
	return "", errors.New("subject: it has no format")
}

// complex finds the sessions that have all that is said of them. What is said beside the session or the user cannot be
// compared with anything here, so more sessions may be meant than the transmitter knows.
func (s subjects) complex(c jose.Claims, critical []string) ([]session.Match, error) {
	if c["session"] != nil && s.sessions { // it says all, if it can be known
		found, err := s.member(c, "session", aSession)
		var nobody *notMeant
		if err == nil {
			return found, understood(c, critical, "session", "user")
		}
		if !errors.As(err, &nobody) {
			return nil, err
		}
	}
	if c["user"] == nil {
		return nil, &notMeant{EventUnmapped, "the subject names neither a user nor a session that could be known"}
	}
	if err := understood(c, critical, "user"); err != nil {
		return nil, err
	}
	return s.member(c, "user", aUser)
}

// understood checks that no member of a complex subject is critical but those named: SSF 1.0, section 3.6.
func understood(c jose.Claims, critical []string, names ...string) error {
	for name := range c {
		if slices.Contains(critical, name) && !slices.Contains(names, name) {
			return &notMeant{EventCritical, fmt.Sprintf("the subject has a critical member %s, which is not understood", name)}
		}
	}
	return nil
}

// member finds whom a member of a complex subject means.
func (s subjects) member(c jose.Claims, name string, as role) ([]session.Match, error) {
	m, err := jose.ParseClaims(c[name])
	if err != nil {
		return nil, fmt.Errorf("subject: %s: %w", name, err)
	}
	format, err := formatOf(m)
	if err != nil {
		return nil, err
	}
	if format == "complex" {
		return nil, fmt.Errorf("subject: %s is complex itself", name)
	}
	return s.simple(m, format, as)
}

// simple finds the sessions that an identifier of RFC 9493, section 3.2, means.
func (s subjects) simple(c jose.Claims, format string, as role) ([]session.Match, error) {
	switch format {
	case "iss_sub":
		return s.issSub(c, as)
	case "email":
		email, err := identifier(c, "email", maxEmail)
		if err != nil {
			return nil, err
		}
		return s.atEach(func(iss string) session.Match { return session.Match{Issuer: iss, Email: email} }), nil
	case "opaque":
		id, err := identifier(c, "id", maxIdentifier)
		if err != nil {
			return nil, err
		}
		if as == anybody {
			as = s.opaque
		}
		if as == aSession && !s.sessions {
			return nil, &notMeant{EventUnmapped, "the subject is a session of the transmitter's"}
		}
		return s.atEach(func(iss string) session.Match { return matchOf(iss, id, as) }), nil
	case "aliases":
		return s.aliases(c, as)
	}
	// account, phone_number, did, uri, jwt_id, saml_assertion_id, ip-addresses: nothing here has any of those.
	return nil, &notMeant{EventUnmapped, fmt.Sprintf("a subject of format %q is nobody who could be known", jose.Printable(format))}
}

func (s subjects) issSub(c jose.Claims, as role) ([]session.Match, error) {
	iss, err1 := identifier(c, "iss", jose.MaxText*4)
	sub, err2 := identifier(c, "sub", maxIdentifier)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if !slices.Contains(s.issuers, iss) {
		return nil, &notMeant{EventForeign, fmt.Sprintf("the transmitter may not speak of users of %q", jose.Printable(iss))}
	}
	return []session.Match{matchOf(iss, sub, as)}, nil
}

// aliases finds whom any of several identifiers of the same subject means (RFC 9493, section 3.2.8).
func (s subjects) aliases(c jose.Claims, as role) ([]session.Match, error) {
	var list []json.RawMessage
	if json.Unmarshal(c["identifiers"], &list) != nil || len(list) == 0 || len(list) > maxAliases {
		return nil, fmt.Errorf("subject: want identifiers, 1 to %d", maxAliases)
	}
	var found []session.Match
	var nobody *notMeant
	for _, raw := range list {
		alias, err := jose.ParseClaims(raw)
		if err != nil {
			return nil, fmt.Errorf("subject: identifiers: %w", err)
		}
		format, err := formatOf(alias)
		if err != nil {
			return nil, err
		}
		if format == "aliases" || format == "complex" {
			return nil, fmt.Errorf("subject: an identifier of format %s within others", format)
		}
		some, err := s.simple(alias, format, as)
		if err != nil && !errors.As(err, &nobody) {
			return nil, err
		}
		found = append(found, some...)
	}
	if len(found) == 0 {
		return nil, nobody
	}
	return found, nil
}

func (s subjects) atEach(match func(issuer string) session.Match) []session.Match {
	list := make([]session.Match, len(s.issuers))
	for i, iss := range s.issuers {
		list[i] = match(iss)
	}
	return list
}

func matchOf(iss, id string, as role) session.Match {
	if as == aSession {
		return session.Match{Issuer: iss, SID: id}
	}
	return session.Match{Issuer: iss, Subject: id}
}

// identifier returns a member that must be there.
func identifier(c jose.Claims, name string, most int) (string, error) {
	v, err := c.Text(name)
	switch {
	case err != nil:
		return "", fmt.Errorf("subject: %w", err)
	case v == "" || len(v) > most || !jose.IsPrintable(v):
		return "", fmt.Errorf("subject: %s is missing, too long or not printable", name)
	}
	return v, nil
}
