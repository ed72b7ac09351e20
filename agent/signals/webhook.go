// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// maxKillBody bounds the body of a webhook's request.
const maxKillBody = 16 << 10

// Webhook describes somebody who may end sessions with a plain request, for all that speaks no standard.
type Webhook struct {
	Name   string   // for logs, and for those who are told who ended their session
	Tokens []string // bearer tokens; one is required
	// Issuer is the one whose users' sessions it may end; empty: all, also such as have none.
	Issuer string
}

// Validate says what is wrong with w, naming the field, or returns nil.
func (w *Webhook) Validate() error {
	if err := checkName(w.Name); err != nil {
		return err
	}
	if len(w.Tokens) == 0 {
		return errors.New("tokens: missing")
	}
	if err := checkTokens(w.Tokens); err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	return nil
}

// killFields are the members of api.KillSignal.
var killFields = []string{"issuer", "subject", "email", "sid", "session", "reason"}

// hook is a Webhook at work.
type hook struct {
	cfg    Webhook
	tokens secrets
}

// hookOf returns the webhook that a token is of, or nil.
func (s *Signals) hookOf(token string) *hook {
	var found *hook
	for i := range s.hooks {
		if s.hooks[i].tokens.accept(token) {
			found = &s.hooks[i]
		}
	}
	return found
}

// kill serves webhooks.
func (s *Signals) kill(w http.ResponseWriter, r *http.Request) {
	h := s.hookOf(bearer(r))
	switch s.doors.kill.admit(r, h != nil) {
	case limited:
		s.cfg.Count(WebhookLimited)
		writeError(w, http.StatusTooManyRequests, api.CodeTooMany, "too many attempts of yours were refused")
		return
	case denied:
		s.cfg.Count(WebhookUnauthenticated)
		s.cfg.Log.Warn("webhook", "outcome", WebhookUnauthenticated, "source", source(r))
		writeError(w, http.StatusUnauthorized, api.CodeUnauthenticated, "the bearer token is that of no webhook")
		return
	}
	log := s.cfg.Log.With("webhook", h.cfg.Name, "source", source(r))
	who, reason, err := h.read(w, r)
	if err != nil {
		s.cfg.Count(WebhookRefused)
		log.Warn("webhook", "outcome", WebhookRefused, "reason", jose.Printable(err.Error()))
		writeError(w, http.StatusBadRequest, api.CodeBadRequest, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), actPatience) // who asks may hang up
	defer cancel()
	n, err := s.cfg.Sessions.End(ctx, who, session.End{Reason: session.ReasonKilled, By: "webhook/" + h.cfg.Name, Message: reason, At: s.cfg.Now()})
	log = log.With("issuer", who.Issuer, "subject", describe([]session.Match{who}), "sessions", n)
	if !who.ID.IsZero() {
		log = log.With("session", who.ID)
	}
	if err != nil {
		s.cfg.Count(WebhookFailed)
		log.Error("webhook", "outcome", WebhookFailed, "error", err)
		writeError(w, http.StatusServiceUnavailable, api.CodeUnavailable, "the kill "+errNotDone.Error()+": try again")
		return
	}
	s.cfg.Count(WebhookEnded)
	log.Info("webhook", "outcome", WebhookEnded, "reason", reason)
	writeJSON(w, "application/json", http.StatusOK, api.KillSignaled{Ended: n})
}

func (h *hook) read(w http.ResponseWriter, r *http.Request) (session.Match, string, error) {
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/json" {
		return session.Match{}, "", errors.New("the content type is not application/json")
	}
	body, err := readBody(w, r, maxKillBody)
	if err != nil {
		return session.Match{}, "", err
	}
	return h.parse(body)
}

// parse reads a KillSignal, strictly: a member that is not known could have been meant to narrow it.
func (h *hook) parse(body []byte) (who session.Match, reason string, err error) {
	c, err := jose.ParseClaims(body)
	if err != nil {
		return who, "", err
	}
	for name := range c {
		if !slices.Contains(killFields, name) {
			return who, "", fmt.Errorf("member %q is not known here", jose.Printable(name))
		}
	}
	for name, raw := range c {
		var text string
		if json.Unmarshal(raw, &text) != nil || text == "" || string(raw) == "null" || len(text) > 4*jose.MaxText || !jose.IsPrintable(text) {
			return who, "", fmt.Errorf("member %s is empty, too long, not printable or not a string", name)
		}
	}
	var k api.KillSignal
	if err := json.Unmarshal(body, &k); err != nil {
		return who, "", err // the session is none
	}
	who = session.Match{Issuer: k.Issuer, Subject: k.Subject, Email: k.Email, SID: k.SID, ID: k.Session}
	if h.cfg.Issuer != "" {
		if who.Issuer != "" && who.Issuer != h.cfg.Issuer {
			return who, "", errors.New("this webhook may not speak of that issuer")
		}
		who.Issuer = h.cfg.Issuer
	}
	return who, jose.Printable(k.Reason), who.Check()
}
