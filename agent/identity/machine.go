// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// MachineConfig describes an issuer of tokens that machines sign in with, and which of them may.
type MachineConfig struct {
	Name     string // names it in requests and in the log
	Issuer   string // the claim iss, exactly
	Audience string // must be in the claim aud, exactly
	// TrustedAudiences may stand in aud beside Audience. Any other is refused: whoever else the token is for
	// could present it here.
	TrustedAudiences []string
	// Subjects are patterns of the claim sub, where * stands for any characters but ":" and "/". Allow, if not nil,
	// decides by the claims, as jose.Claims.Values has them. At least one of both must be there; both must admit.
	Subjects []string
	Allow    func(claims map[string]any) (bool, error)
	MaxAge   time.Duration // since the claim iat
	// Where the issuer's keys are: JWKS has them, or JWKSURI their address; else the discovery document of
	// Issuer says. CA is as in Config.
	JWKS         []byte
	JWKSURI      string
	CA           []byte
	GroupsClaim  string   // as in Config
	Algorithms   []string // default: all asymmetric ones
	AccessTokens bool     // also take tokens of type at+jwt (RFC 9068)
	OutliveToken bool     // sessions may last longer than their token
}

// machine is a configured issuer. Immutable.
type machine struct {
	cfg      MachineConfig
	verifier jose.Verifier
	subjects []*regexp.Regexp // empty: any
}

// newMachine returns the machine that cfg describes, without contacting anyone.
func newMachine(cfg MachineConfig, now func() time.Time) (*machine, error) {
	switch {
	case !providerName.MatchString(cfg.Name):
		return nil, fmt.Errorf("name %q: want a-z, 0-9 and -, at most 32 characters", cfg.Name)
	case cfg.Issuer == "" || cfg.Audience == "" || cfg.MaxAge <= 0:
		return nil, errors.New("issuer, audience or max_age: missing")
	case len(cfg.Subjects) == 0 && cfg.Allow == nil:
		return nil, errors.New("neither subjects nor allow: nothing says which tokens may sign in")
	}
	algorithms, err := jose.Algorithms(cfg.Algorithms)
	if err != nil {
		return nil, err
	}
	keys, err := cfg.keys(now)
	if err != nil {
		return nil, err
	}
	m := &machine{cfg: cfg, verifier: jose.Verifier{Keys: keys, Issuer: cfg.Issuer, Audience: cfg.Audience,
		TrustedAudiences: cfg.TrustedAudiences, Algorithms: algorithms, Types: []string{jose.Untyped, jose.TypeJWT}}}
	if cfg.AccessTokens {
		m.verifier.Types = append(m.verifier.Types, jose.TypeAccess)
	}
	for _, pattern := range cfg.Subjects {
		p, err := subjectPattern(pattern)
		if err != nil {
			return nil, err
		}
		m.subjects = append(m.subjects, p)
	}
	return m, nil
}

func (c *MachineConfig) keys(now func() time.Time) (*jose.KeySet, error) {
	if len(c.JWKS) > 0 {
		keys, err := jose.NewFixedKeySet(c.JWKS)
		if err != nil {
			return nil, fmt.Errorf("jwks_file: the keys %w", err)
		}
		return keys, nil
	}
	roots, err := jose.Roots(c.CA)
	if err != nil {
		return nil, err
	}
	client := jose.NewHTTPClient(roots)
	if c.JWKSURI != "" {
		if err := jose.CheckEndpoint(c.JWKSURI); err != nil {
			return nil, fmt.Errorf("jwks_uri: %w", err)
		}
		return jose.NewKeySet(c.JWKSURI, client, now), nil
	}
	if err := jose.CheckEndpoint(c.Issuer); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	return jose.NewIssuerKeySet(c.Issuer, client, now), nil
}

// sameKeys reports whether the keys of both come from the same place.
func (c *MachineConfig) sameKeys(other *MachineConfig) bool {
	return c.Issuer == other.Issuer && c.JWKSURI == other.JWKSURI && bytes.Equal(c.JWKS, other.JWKS) && bytes.Equal(c.CA, other.CA)
}

// subjectPattern compiles a pattern: a * stands for what is between two separators, or a part of it, so that
// system:serviceaccount:prod:* says nothing about other namespaces. Nothing else is special.
func subjectPattern(pattern string) (*regexp.Regexp, error) {
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	p, err := regexp.Compile(`\A` + strings.Join(parts, `[^:/]*`) + `\z`)
	if err != nil { // it is not UTF-8
		return nil, fmt.Errorf("subjects: %q: %w", pattern, err)
	}
	return p, nil
}

// proof is what a token of a machine has shown.
type proof struct {
	identity   session.Identity
	credential session.Credential
	issued     time.Time
	expires    time.Time
}

// errDeniedMachine is returned for a good token of somebody who may not sign in.
var errDeniedMachine = errors.New("the token is good, but may not sign in here")

// check verifies a token and asks whether it may sign in. The error wraps jose.ErrNoKeys where the issuer's keys
// cannot be had, and errDeniedMachine where nothing is wrong with the token.
func (m *machine) check(ctx context.Context, token string, now time.Time) (proof, error) {
	c, err := m.verifier.Verify(ctx, token)
	if err != nil {
		return proof{}, err
	}
	var p proof
	if p.issued, err = c.CheckIssued(now); err != nil {
		return proof{}, err
	}
	if p.expires, err = c.CheckCurrent(now); err != nil {
		return proof{}, err
	}
	if age := now.Sub(p.issued); age > m.cfg.MaxAge {
		return proof{}, fmt.Errorf("was issued %s ago, more than %s", age.Round(time.Second), m.cfg.MaxAge)
	}
	if p.identity, err = describe(c, m.cfg.Issuer, m.cfg.GroupsClaim); err != nil {
		return proof{}, err
	}
	jti, err := c.Text("jti")
	if err != nil {
		return proof{}, err
	}
	p.credential = credentialOf(m.cfg.Issuer, jti, token)
	if err := m.admit(c, p.identity.Subject); err != nil {
		return proof{}, err
	}
	return p, nil
}

// admit asks whether the token of a subject may sign in.
func (m *machine) admit(c jose.Claims, subject string) error {
	matches := func(pattern *regexp.Regexp) bool { return pattern.MatchString(subject) }
	if len(m.subjects) > 0 && !slices.ContainsFunc(m.subjects, matches) {
		return fmt.Errorf("%w: no pattern of subjects matches %q", errDeniedMachine, subject)
	}
	if m.cfg.Allow == nil {
		return nil
	}
	values, err := c.Values()
	if err != nil {
		return err
	}
	switch ok, err := m.cfg.Allow(values); {
	case err != nil:
		return fmt.Errorf("%w: allow: %w", errDeniedMachine, err)
	case !ok:
		return fmt.Errorf("%w: allow says no", errDeniedMachine)
	}
	return nil
}

// credentialOf names a token for good: by its jti, or by what is signed where it has none.
func credentialOf(issuer, jti, token string) session.Credential {
	if jti != "" {
		return session.CredentialOf(issuer, "jti "+jti)
	}
	sum := sha256.Sum256([]byte(jose.SignedPart(token)))
	return session.CredentialOf(issuer, "token "+string(sum[:]))
}
