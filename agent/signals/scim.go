// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

const (
	contentSCIM = "application/scim+json"
	maxScimBody = 256 << 10
)

// Provisioner describes a SCIM client (RFC 7644) that tells which users are deactivated. Nothing is kept of its users: it
// sees one with each name that it asks for, and only what ends access has an effect.
type Provisioner struct {
	Name   string   // in URLs: https://AGENT/scim/v2/NAME
	Tokens []string // bearer tokens; one is required
	Issuer string   // whose users they are, as in the claim iss of their ID tokens
	// UserName and ExternalID say what these attributes of SCIM are in ID tokens: IsEmail, IsSubject or Ignores. Default:
	// IsEmail and Ignores.
	UserName, ExternalID string
}

// Validate says what is wrong with p, naming the field, or returns nil.
func (p *Provisioner) Validate() error {
	q := p.withDefaults()
	if err := errors.Join(checkName(p.Name), oneOf("user_name", p.UserName, IsEmail, IsSubject, Ignores),
		oneOf("external_id", p.ExternalID, IsEmail, IsSubject, Ignores)); err != nil {
		return err
	}
	switch {
	case p.Issuer == "":
		return errors.New("issuer: missing")
	case len(p.Tokens) == 0:
		return errors.New("tokens: missing")
	case q.UserName == Ignores && q.ExternalID == Ignores:
		return errors.New("user_name, external_id: with both ignored nobody can be meant")
	}
	if err := checkTokens(p.Tokens); err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	return nil
}

func (p Provisioner) withDefaults() Provisioner {
	if p.UserName == "" {
		p.UserName = IsEmail
	}
	if p.ExternalID == "" {
		p.ExternalID = Ignores
	}
	return p
}

// provisioner is a Provisioner at work.
type provisioner struct {
	cfg    Provisioner
	tokens secrets
	log    *slog.Logger
	*Config
}

// scimError is an answer that is not a success: RFC 7644, section 3.12.
type scimError struct {
	status int
	kind   string // scimType, or empty
	detail string
}

func (e *scimError) Error() string { return e.detail }

func badRequest(kind, format string, args ...any) error {
	return &scimError{http.StatusBadRequest, kind, fmt.Sprintf(format, args...)}
}

var errNoResource = &scimError{http.StatusNotFound, "", "there is no such resource"}

// scim serves one path of SCIM to who has the token.
func (s *Signals) scim(serve func(*provisioner, http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p := s.provisioners[r.PathValue("name")]
		if p == nil {
			writeScimError(w, &scimError{http.StatusNotFound, "", "there is no provisioner of this name"})
			return
		}
		switch s.doors.scim.admit(r, p.tokens.accept(bearer(r))) {
		case limited:
			s.cfg.Count(ScimLimited)
			writeScimError(w, &scimError{http.StatusTooManyRequests, "", "too many attempts of yours were refused"})
			return
		case denied:
			s.cfg.Count(ScimUnauthenticated)
			p.log.Warn("provisioning", "outcome", ScimUnauthenticated, "source", source(r))
			writeScimError(w, &scimError{http.StatusUnauthorized, "", "the bearer token is not that of this provisioner"})
			return
		}
		if err := serve(p, w, r); err != nil {
			p.fail(w, r, err)
		}
	}
}

// fail answers with an error, and notes it unless it is only that something is not there.
func (p *provisioner) fail(w http.ResponseWriter, r *http.Request, err error) {
	var e *scimError
	switch {
	case !errors.As(err, &e):
		p.Count(ScimFailed)
		p.log.Error("provisioning", "outcome", ScimFailed, "method", r.Method, "error", err)
		e = &scimError{http.StatusServiceUnavailable, "", "the change " + errNotDone.Error() + ": try again"}
	case e.status != http.StatusNotFound:
		p.Count(ScimRefused)
		p.log.Warn("provisioning", "outcome", ScimRefused, "method", r.Method, "source", source(r), "reason", jose.Printable(e.detail))
	}
	writeScimError(w, e)
}

func writeScimError(w http.ResponseWriter, e *scimError) {
	switch e.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", retryAfter)
	}
	body := map[string]any{"schemas": []string{"urn:ietf:params:scim:api:messages:2.0:Error"}, "status": fmt.Sprint(e.status), "detail": jose.Printable(e.detail)}
	if e.kind != "" {
		body["scimType"] = e.kind
	}
	writeJSON(w, contentSCIM, e.status, body)
}

// apply carries out what a change comes to, and notes it.
func (p *provisioner) apply(r *http.Request, o order, whom []session.Match, what string) error {
	log := p.log.With("method", r.Method, "what", what, "issuer", p.cfg.Issuer, "subject", describe(whom))
	if o == leave || len(whom) == 0 {
		p.Count(ScimIgnored)
		log.Info("provisioning", "outcome", ScimIgnored)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), actPatience) // who asks may hang up
	defer cancel()
	now := p.Now()
	n, err := carryOut(ctx, p.Sessions, o, whom, session.End{Reason: session.ReasonProvider, By: "scim/" + p.cfg.Name, Message: what, At: now}, now)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", what, errNotDone, err)
	}
	outcome := ScimEnded
	if o == reconsider {
		outcome = ScimReconsidered
	}
	p.Count(outcome)
	log.Info("provisioning", "outcome", outcome, "sessions", n)
	return nil
}

// addProvisioner serves a provisioner.
func (s *Signals) addProvisioner(p Provisioner) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if s.provisioners[p.Name] != nil {
		return fmt.Errorf("name: a second one is called %q", p.Name)
	}
	s.provisioners[p.Name] = &provisioner{cfg: p.withDefaults(), tokens: secretsOf(p.Tokens), log: s.cfg.Log.With("provisioner", p.Name), Config: &s.cfg}
	return nil
}

// routeScim serves all paths of SCIM: RFC 7644, section 3.2.
func (s *Signals) routeScim() {
	base := api.PathSCIM + "{name}/"
	for pattern, serve := range map[string]func(*provisioner, http.ResponseWriter, *http.Request) error{
		"GET " + base + "ServiceProviderConfig": (*provisioner).serviceProvider,
		"GET " + base + "ResourceTypes":         (*provisioner).resourceTypes,
		"GET " + base + "ResourceTypes/{id}":    (*provisioner).resourceType,
		"GET " + base + "Schemas":               (*provisioner).schemas,
		"GET " + base + "Schemas/{id}":          (*provisioner).schema,
		"GET " + base + "Users":                 (*provisioner).findUsers,
		"POST " + base + "Users":                (*provisioner).createUser,
		"GET " + base + "Users/{id}":            (*provisioner).getUser,
		"PUT " + base + "Users/{id}":            (*provisioner).replaceUser,
		"PATCH " + base + "Users/{id}":          (*provisioner).patchUser,
		"DELETE " + base + "Users/{id}":         (*provisioner).deleteUser,
		"GET " + base + "Groups":                (*provisioner).findGroups,
		"POST " + base + "Groups":               (*provisioner).createGroup,
		"GET " + base + "Groups/{id}":           (*provisioner).getGroup,
		"PUT " + base + "Groups/{id}":           (*provisioner).replaceGroup,
		"PATCH " + base + "Groups/{id}":         (*provisioner).patchGroup,
		"DELETE " + base + "Groups/{id}":        (*provisioner).deleteGroup,
		base:                                    func(*provisioner, http.ResponseWriter, *http.Request) error { return errNoResource },
	} {
		s.mux.HandleFunc(pattern, s.scim(serve))
	}
}
