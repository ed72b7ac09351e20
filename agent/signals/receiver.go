// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// actPatience is how long it may take to end the sessions that one message is about.
const actPatience = 30 * time.Second

// errNotDone is returned where sessions could not all be ended.
var errNotDone = errors.New("could not be carried out on all sessions")

// receiver takes in the events of one transmitter, however they come. It is safe for concurrent use.
type receiver struct {
	cfg      Transmitter
	tokens   secrets
	client   *http.Client
	access   *accessTokens
	metadata metadataCache
	reader   *setReader
	subjects subjects
	seen     *replays
	checks   *verifications
	sessions Sessions
	log      *slog.Logger
	count    func(string)
	quiet    time.Duration // pollQuiet, but in tests
}

func newReceiver(cfg Transmitter, c *Config) (*receiver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	roots, err := jose.Roots(cfg.CA)
	if err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	r := &receiver{cfg: cfg, tokens: secretsOf(cfg.Tokens), client: jose.NewHTTPClient(roots), subjects: subjectsOf(&cfg), sessions: c.Sessions,
		seen: newReplays(cfg.MaxAge+2*jose.Leeway, c.Now), checks: newVerifications(&cfg), log: c.Log.With("transmitter", cfg.Name), count: c.Count, quiet: pollQuiet}
	r.access = newAccessTokens(cfg.Access, r.client, c.Now)
	r.reader = newSetReader(&cfg, keysOf(&cfg, r.locateKeys, r.client, c.Now), c.Now)
	return r, nil
}

// take acts upon a SET. It returns nil if that is done, or was done before: then it may be acknowledged. A *refusal is
// for good; with any other error the SET has to be delivered again.
func (r *receiver) take(ctx context.Context, token, how string) error {
	log := r.log.With("delivery", how, "issuer", r.cfg.Issuer)
	s, err := r.reader.read(ctx, token)
	if err != nil {
		if c, malformed := jose.Unverified(token); malformed == nil {
			jti, _ := c.Text("jti")
			log = log.With("jti", jose.Printable(jti)) // says it
		}
		return r.failed(log, err)
	}
	log = log.With("jti", s.jti, "event", s.names())
	again, err := r.seen.once(ctx, s.jti, s.digest, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), actPatience) // who sends it may hang up
		defer cancel()
		return r.act(ctx, log, s)
	})
	switch {
	case errors.Is(err, errReused):
		return r.failed(log, &refusal{codeRequest, err})
	case again && err == nil:
		r.count(EventRepeated)
		log.Info("security event", "outcome", EventRepeated)
		return nil
	case errors.Is(err, errFull):
		return r.failed(log, err)
	}
	return err // act has logged it
}

// failed logs and counts why a SET was not acted upon, and returns err.
func (r *receiver) failed(log *slog.Logger, err error) error {
	var refused *refusal
	outcome := EventFailed
	switch {
	case errors.As(err, &refused):
		outcome = EventRefused
		log = log.With("code", refused.code)
	case errors.Is(err, errFull):
		outcome = EventFull
	case errors.Is(err, jose.ErrNoKeys):
		outcome = EventUnavailable
	}
	r.count(outcome)
	log.Warn("security event", "outcome", outcome, "reason", jose.Printable(err.Error()))
	return err
}

// act does what a SET says that was not seen before.
func (r *receiver) act(ctx context.Context, log *slog.Logger, s *set) error {
	verification, update := s.events[typeVerification], s.events[typeStreamUpdated]
	switch {
	case verification == nil && update == nil:
		return r.actOnSubject(ctx, log, s)
	case len(s.events) > 1: // or a user's event would pass unnoticed
		return r.failed(log, refuse(codeRequest, "it is about a stream and about something else"))
	case update != nil:
		return r.streamUpdated(log, s, update)
	}
	if err := r.checks.arrive(s.subject, verification); err != nil {
		return r.failed(log, err)
	}
	r.done(log, EventVerification)
	return nil
}

func (r *receiver) actOnSubject(ctx context.Context, log *slog.Logger, s *set) error {
	v, err := s.judge(&r.cfg, r.subjects, r.metadata.critical())
	var nobody *notMeant
	switch {
	case errors.As(err, &nobody):
		r.count(nobody.outcome)
		log.Warn("security event", "outcome", nobody.outcome, "reason", nobody.why)
		return nil
	case err != nil:
		return r.failed(log, err)
	case v.order == leave:
		r.done(log, EventIgnored)
		return nil
	}
	n, err := carryOut(ctx, r.sessions, v.order, v.whom, v.because(&r.cfg, r.reader.now()), s.issued)
	if err != nil {
		return r.failed(log.With("sessions", n), fmt.Errorf("%w: %w", errNotDone, err))
	}
	outcome := EventEnded
	if v.order == reconsider {
		outcome = EventReconsidered
	}
	r.done(log.With("sessions", n, "subject", describe(v.whom)), outcome)
	return nil
}

func (r *receiver) done(log *slog.Logger, outcome string) {
	r.count(outcome)
	log.Info("security event", "outcome", outcome)
}

// streamUpdated notes that the transmitter has changed the status of its stream (SSF 1.0, section 8.1.5).
func (r *receiver) streamUpdated(log *slog.Logger, s *set, payload jose.Claims) error {
	stream, err1 := streamOf(s.subject)
	status, err2 := payload.Text("status")
	why, err3 := payload.Text("reason")
	if err := errors.Join(err1, err2, err3); err != nil {
		return r.failed(log, &refusal{codeRequest, err})
	}
	r.count(EventStreamUpdated)
	level := slog.LevelWarn // it says nothing any more about users
	if status == statusEnabled {
		level = slog.LevelInfo
	}
	log.Log(context.Background(), level, "security event", "outcome", EventStreamUpdated, "stream", stream,
		"status", jose.Printable(status), "reason", jose.Printable(why))
	return nil
}

// maxNamed is how many users a line of the log names.
const maxNamed = 5

// describe names the users that are meant. The names of providers' sessions are not for logs.
func describe(whom []session.Match) string {
	var names []string
	for _, m := range whom {
		switch {
		case m.SID != "":
			names = append(names, "a session of the provider")
		case m.Subject != "":
			names = append(names, m.Subject)
		default:
			names = append(names, m.Email)
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > maxNamed {
		names = append(names[:maxNamed], fmt.Sprintf("and %d more", len(names)-maxNamed))
	}
	return strings.Join(names, ", ")
}
