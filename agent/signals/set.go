// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// maxEvents bounds the events of one SET. There should be one (SSF 1.0, section 4.2.1); several are for other names of
// the same.
const maxEvents = 8

// Codes of refusals: RFC 8935, section 2.4, and SSF 1.0, section 8.1.4.1.
const (
	codeRequest    = "invalid_request"
	codeKey        = "invalid_key"
	codeIssuer     = "invalid_issuer"
	codeAudience   = "invalid_audience"
	codeUnknown    = "authentication_failed"
	codeDenied     = "access_denied"
	codeState      = "invalid_state"
	maxDescription = jose.MaxText
)

// refusal says why a SET is refused, for good: the same SET will be refused again.
type refusal struct {
	code string
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }

func (r *refusal) Unwrap() error { return r.err }

func refuse(code, format string, args ...any) *refusal {
	return &refusal{code, fmt.Errorf(format, args...)}
}

// set is what a verified SET says (RFC 8417).
type set struct {
	jti     string
	issued  time.Time
	subject json.RawMessage // the claim sub_id, or nil
	events  map[string]jose.Claims
	digest  digest // of all that it says
}

// setReader verifies the SETs of one transmitter. It is immutable and safe for concurrent use.
type setReader struct {
	verifier jose.Verifier
	maxAge   time.Duration
	now      func() time.Time
}

func newSetReader(t *Transmitter, keys *jose.KeySet, now func() time.Time) *setReader {
	return &setReader{maxAge: t.MaxAge, now: now, verifier: jose.Verifier{
		Keys: keys, Issuer: t.Issuer, Audience: t.Audience, Types: []string{jose.TypeSecurity}, Algorithms: t.Algorithms,
	}}
}

// read verifies a SET and reads it. The error is a *refusal, or wraps jose.ErrNoKeys if nothing can be said about it yet.
func (s *setReader) read(ctx context.Context, token string) (*set, error) {
	c, err := s.verifier.Verify(ctx, token)
	switch {
	case err == nil:
	case errors.Is(err, jose.ErrNoKeys):
		return nil, err
	case errors.Is(err, jose.ErrSignature):
		return nil, &refusal{codeKey, err}
	case errors.Is(err, jose.ErrIssuer):
		return nil, &refusal{codeIssuer, err}
	case errors.Is(err, jose.ErrAudience):
		return nil, &refusal{codeAudience, err}
	default:
		return nil, &refusal{codeRequest, err}
	}
	out := &set{digest: digestOf(strings.Split(token, ".")[1])} // has three parts: it was verified
	if err := errors.Join(s.checkInstants(c), s.checkOthers(c), out.readClaims(c)); err != nil {
		return nil, &refusal{codeRequest, err}
	}
	return out, nil
}

// checkInstants checks when the SET was issued.
func (s *setReader) checkInstants(c jose.Claims) error {
	now := s.now()
	iat, err1 := c.Instant("iat")
	nbf, err2 := c.Instant("nbf")
	switch err := errors.Join(err1, err2); {
	case err != nil:
		return err
	case iat.IsZero():
		return errors.New("claim iat is missing")
	case iat.After(now.Add(jose.Leeway)):
		return fmt.Errorf("claim iat is %s in the future: are the clocks right?", iat.Sub(now).Round(time.Second))
	case now.Sub(iat) > s.maxAge:
		return fmt.Errorf("was issued %s ago, more than %s", now.Sub(iat).Round(time.Second), s.maxAge)
	case nbf.After(now.Add(jose.Leeway)):
		return errors.New("claim nbf is in the future")
	}
	return nil
}

// checkOthers refuses what makes a token of another kind of a SET. RFC 8417, section 2.2, does not recommend exp; SSF
// 1.0, sections 4.1.2 and 4.1.7, forbid exp and sub, in defence against confusion: so they are refused here.
func (s *setReader) checkOthers(c jose.Claims) error {
	for _, name := range []string{"exp", "sub"} {
		if _, has := c[name]; has {
			return fmt.Errorf("has a claim %s, which security events must not have", name)
		}
	}
	return nil
}

// readClaims reads what only SETs have. Members that are not known are not looked at (SSF 1.0, section 4.2.3).
func (out *set) readClaims(c jose.Claims) error {
	var err error
	if out.issued, err = c.Instant("iat"); err != nil {
		return err
	}
	if out.jti, err = c.Text("jti"); err != nil || out.jti == "" || len(out.jti) > jose.MaxText || !jose.IsPrintable(out.jti) {
		return errors.New("claim jti is missing, too long, not printable or not a string")
	}
	out.subject = c["sub_id"]
	events, err := jose.ParseClaims(c["events"])
	if err != nil {
		return fmt.Errorf("claim events: %w", err)
	}
	if len(events) == 0 || len(events) > maxEvents {
		return fmt.Errorf("claim events has %d events, want 1 to %d", len(events), maxEvents)
	}
	out.events = make(map[string]jose.Claims, len(events))
	for name, payload := range events {
		if out.events[name], err = jose.ParseClaims(payload); err != nil {
			return fmt.Errorf("event %q: %w", jose.Printable(name), err)
		}
	}
	return nil
}

// keysOf returns the keys of a transmitter; locate finds where they are if that is not configured.
func keysOf(t *Transmitter, locate func(context.Context) (string, error), client *http.Client, now func() time.Time) *jose.KeySet {
	if t.JWKSURI != "" {
		return jose.NewKeySet(t.JWKSURI, client, now)
	}
	return jose.NewLocatedKeySet(t.Issuer, locate, client, now)
}
