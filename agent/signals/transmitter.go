// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// Limits on the age of an event, since it was issued.
const (
	DefaultMaxAge = 24 * time.Hour // transmitters hold events while they cannot deliver them
	maxMaxAge     = 7 * 24 * time.Hour
)

// Transmitter describes one transmitter of security events, and what it may say.
type Transmitter struct {
	Name     string // in URLs and on the command line: [a-z0-9-], up to 32
	Issuer   string // the claim iss of its events, exactly; an https URL
	Audience string // the claim aud, exactly: us
	// Issuers are those whose users and sessions it may speak of; default: its own. Subjects that name no issuer are
	// looked for at each.
	Issuers    []string
	MaxAge     time.Duration // since the claim iat; default: DefaultMaxAge
	JWKSURI    string        // where its keys are; default: its SSF configuration says
	Algorithms []string      // that may sign events; default: all asymmetric ones
	CA         []byte        // PEM, what its certificate is checked against; default: the system's

	CredentialChange string // Ends (default), Reconsiders or WantsFresh: what a changed credential does to sessions
	DeviceCompliance string // Ends (default) or Ignores: what a device that no longer complies does
	// Opaque is what an identifier of format opaque stands for where it is the whole subject: MeansSession
	// (default) or MeansUser.
	Opaque string
	// SessionIDs says what its identifiers of sessions are: IsSID (default), the claim sid of the ID tokens, or
	// IsUnknown. The latter are ignored, so that an event about a user's session is about all of that user.
	SessionIDs string

	// Tokens are what it presents when it pushes events here, each a bearer token; none: it cannot.
	Tokens []string
	// PollURL is where its events are fetched (RFC 8936); empty: they are not.
	PollURL string
	Access  Access // how we prove to it who we are, for polling and for managing streams
}

// Values of the fields of Transmitter and Provisioner.
const (
	Ends         = "end"
	Reconsiders  = "reconsider"
	WantsFresh   = "fresh"
	Ignores      = "ignore"
	MeansSession = "session"
	MeansUser    = "user"
	IsSID        = "sid"
	IsUnknown    = "unknown"
	IsEmail      = "email"
	IsSubject    = "subject"
)

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name %q: want a-z, 0-9 and -, at most 32 characters", name)
	}
	return nil
}

// Validate says what is wrong with t, naming the field, or returns nil.
func (t *Transmitter) Validate() error {
	if err := errors.Join(checkName(t.Name), t.validateIssuer(), t.validateMeanings()); err != nil {
		return err
	}
	if len(t.Tokens) == 0 && t.PollURL == "" {
		return errors.New("tokens: events can neither be pushed nor polled; give tokens or poll_url")
	}
	if t.PollURL != "" {
		if err := jose.CheckEndpoint(t.PollURL); err != nil {
			return fmt.Errorf("poll_url: %w", err)
		}
		if t.Access.none() {
			return errors.New("access: events cannot be polled without")
		}
	}
	if err := checkTokens(t.Tokens); err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	if err := t.Access.Validate(); err != nil {
		return fmt.Errorf("access: %w", err)
	}
	return nil
}

func (t *Transmitter) validateIssuer() error {
	if err := jose.CheckEndpoint(t.Issuer); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	if t.JWKSURI != "" {
		if err := jose.CheckEndpoint(t.JWKSURI); err != nil {
			return fmt.Errorf("jwks_uri: %w", err)
		}
	}
	if t.Audience == "" {
		return errors.New("audience: missing")
	}
	for _, iss := range t.Issuers {
		if iss == "" {
			return errors.New("issuers: one is empty")
		}
	}
	if t.MaxAge < 0 || t.MaxAge > maxMaxAge {
		return fmt.Errorf("max_age %s: want at most %s", t.MaxAge, maxMaxAge)
	}
	_, err := jose.Algorithms(t.Algorithms)
	return err
}

func (t *Transmitter) validateMeanings() error {
	return errors.Join(
		oneOf("credential_change", t.CredentialChange, Ends, Reconsiders, WantsFresh),
		oneOf("device_compliance", t.DeviceCompliance, Ends, Ignores),
		oneOf("opaque", t.Opaque, MeansSession, MeansUser),
		oneOf("session_ids", t.SessionIDs, IsSID, IsUnknown))
}

func (t Transmitter) withDefaults() Transmitter {
	if len(t.Issuers) == 0 {
		t.Issuers = []string{t.Issuer}
	}
	if t.MaxAge == 0 {
		t.MaxAge = DefaultMaxAge
	}
	t.Algorithms, _ = jose.Algorithms(t.Algorithms) // has been validated
	return t
}
