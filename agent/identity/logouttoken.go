// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

const (
	logoutEvent = "http://schemas.openid.net/event/backchannel-logout"
	// logoutMaxAge is how old a logout token may be: the provider sends it at once, and again if that fails.
	logoutMaxAge = 10 * time.Minute
	// logoutMaxLife is how far its exp may be from its iat. Two minutes are what the standard recommends.
	logoutMaxLife = 24 * time.Hour
	maxSID        = 255
)

// logoutToken is what a verified logout token says.
type logoutToken struct {
	who session.Match
	jti string
}

var errReplayed = errors.New("has been used before")

// verifyLogout checks a logout token by OpenID Connect Back-Channel Logout 1.0, section 2.6. The error wraps
// jose.ErrNoKeys where the provider's keys cannot be had; patient waits for those that were fetched too often.
func (p *Provider) verifyLogout(ctx context.Context, raw string, patient bool) (logoutToken, error) {
	m, err := p.ready()
	if err != nil {
		return logoutToken{}, err
	}
	v := jose.Verifier{Keys: m.keys, Issuer: m.cfg.Issuer, Audience: m.cfg.ClientID, TrustedAudiences: m.cfg.TrustedAudiences,
		Algorithms: m.cfg.Algorithms, Types: []string{jose.TypeLogout, jose.TypeJWT, jose.Untyped}, Patient: patient}
	c, err := v.Verify(ctx, raw)
	if err != nil {
		return logoutToken{}, err
	}
	now := p.now()
	issued, err := c.CheckIssued(now)
	if err != nil {
		return logoutToken{}, err
	}
	expires, err := c.CheckCurrent(now)
	switch {
	case err != nil:
		return logoutToken{}, err
	case now.Sub(issued) > logoutMaxAge:
		return logoutToken{}, fmt.Errorf("was issued %s ago, more than %s", now.Sub(issued).Round(time.Second), logoutMaxAge)
	case expires.Sub(issued) > logoutMaxLife:
		return logoutToken{}, fmt.Errorf("expires %s after it was issued, more than %s", expires.Sub(issued), logoutMaxLife)
	}
	return readLogout(c, m.cfg.Issuer)
}

// readLogout reads what only logout tokens have.
func readLogout(c jose.Claims, issuer string) (t logoutToken, err error) {
	if _, has := c["nonce"]; has {
		return t, errors.New("has a claim nonce: it is an ID token")
	}
	events, err := jose.ParseClaims(c["events"])
	if err != nil {
		return t, fmt.Errorf("claim events: %w", err)
	}
	if what := bytes.TrimSpace(events[logoutEvent]); len(what) == 0 || what[0] != '{' {
		return t, fmt.Errorf("claim events has no object %s", logoutEvent)
	}
	if t.jti, err = c.Text("jti"); err != nil || t.jti == "" || len(t.jti) > jose.MaxText {
		return t, errors.New("claim jti is missing, too long or not a string")
	}
	t.who.Issuer = issuer
	if t.who.SID, err = sidOf(c); err != nil {
		return t, err
	}
	if _, has := c["sub"]; has || t.who.SID == "" {
		if t.who.Subject, err = c.Subject(); err != nil {
			return t, err
		}
	}
	return t, nil
}

// sidOf returns the claim sid, which may be missing.
func sidOf(c jose.Claims) (string, error) {
	sid, err := c.Text("sid")
	if err != nil {
		return "", err
	}
	if len(sid) > maxSID || !jose.IsPrintable(sid) {
		return "", errors.New("claim sid is too long or not printable")
	}
	return sid, nil
}
