// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Event types begin with one of these.
const (
	ssfTypes  = "https://schemas.openid.net/secevent/ssf/event-type/"
	caepTypes = "https://schemas.openid.net/secevent/caep/event-type/"
	riscTypes = "https://schemas.openid.net/secevent/risc/event-type/"
)

// Types of events that are about a stream.
const (
	typeVerification  = ssfTypes + "verification"
	typeStreamUpdated = ssfTypes + "stream-updated"
)

// EventTypes are those that something is done about, to be asked for when a stream is set up.
func EventTypes() []string {
	var list []string
	for name := range orders {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// orders says what an event does to the sessions of its subject. All others do nothing.
var orders = map[string]func(t *Transmitter, payload jose.Claims) order{
	caepTypes + "session-revoked":          always(end),
	caepTypes + "token-claims-change":      always(reconsider),
	caepTypes + "assurance-level-change":   always(reconsider),
	caepTypes + "credential-change":        credentialChange,
	caepTypes + "device-compliance-change": deviceCompliance,

	riscTypes + "account-disabled":                   always(end),
	riscTypes + "account-purged":                     always(end),
	riscTypes + "account-credential-change-required": always(end),
	riscTypes + "sessions-revoked":                   always(end), // before CAEP
	riscTypes + "credential-compromise":              credentialChange,
}

func always(o order) func(*Transmitter, jose.Claims) order {
	return func(*Transmitter, jose.Claims) order { return o }
}

// credentialChange looks neither at what has changed nor how: who has stolen a session also adds credentials.
func credentialChange(t *Transmitter, _ jose.Claims) order {
	switch t.CredentialChange {
	case Reconsiders:
		return reconsider
	case WantsFresh:
		return endUntilFresh
	}
	return end
}

// deviceCompliance ends sessions unless it is said that the device complies: doubt is refused.
func deviceCompliance(t *Transmitter, payload jose.Claims) order {
	status, err := payload.Text("current_status")
	if t.DeviceCompliance == Ignores || err == nil && status == "compliant" {
		return leave
	}
	return end
}

// verdict is what a SET about a subject comes to.
type verdict struct {
	order   order
	whom    []session.Match
	name    string // of the event, for people
	message string // for the user, or empty
}

// judge decides what a SET about a subject comes to: of several events, the strongest counts. The error is a *refusal
// or a *notMeant.
func (s *set) judge(t *Transmitter, who subjects, critical []string) (verdict, error) {
	v := verdict{order: leave, name: s.names()}
	for name, payload := range s.events {
		if decide := orders[name]; decide != nil {
			v.order = max(v.order, decide(t, payload))
			v.message = max(v.message, userReason(payload))
		}
	}
	if v.order == leave {
		return v, nil
	}
	var err error
	v.whom, err = s.whom(who, critical)
	var nobody *notMeant
	if err != nil && !errors.As(err, &nobody) {
		return v, &refusal{codeRequest, err}
	}
	return v, err
}

// whom returns those that the claim sub_id means, and those that the member subject of an event does, as it was before SSF
// 1.0. Where both are there they should say the same; if not, one is wrong, and it is not known which.
func (s *set) whom(who subjects, critical []string) ([]session.Match, error) {
	var all []session.Match
	var nobody *notMeant
	said := s.subjects()
	for _, subject := range said {
		some, err := who.find(subject, critical)
		if err != nil && !errors.As(err, &nobody) {
			return nil, err
		}
		all = append(all, some...)
	}
	switch {
	case len(said) == 0:
		return nil, errors.New("it has no subject")
	case len(all) == 0:
		return nil, nobody
	}
	slices.SortFunc(all, func(a, b session.Match) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return slices.Compact(all), nil
}

func (s *set) subjects() []json.RawMessage {
	var list []json.RawMessage
	if s.subject != nil {
		list = append(list, s.subject)
	}
	for _, payload := range s.events {
		if old, has := payload["subject"]; has {
			list = append(list, old)
		}
	}
	return list
}

// names lists the types of a SET's events, for people.
func (s *set) names() string {
	var list []string
	for name := range s.events {
		for _, prefix := range []string{ssfTypes, caepTypes, riscTypes} {
			name = strings.TrimPrefix(name, prefix)
		}
		list = append(list, jose.Printable(name))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// userReason returns what a CAEP event says to its user, in English if there is a choice.
func userReason(payload jose.Claims) string {
	if text, err := payload.Text("reason_user"); err == nil { // before CAEP 1.0
		return jose.Printable(text)
	}
	byLanguage, err := jose.ParseClaims(payload["reason_user"])
	if err != nil {
		return ""
	}
	var text string
	for language := range byLanguage {
		some, err := byLanguage.Text(language)
		if err != nil {
			continue
		}
		if text = max(text, some); strings.HasPrefix(strings.ToLower(language), "en") {
			return jose.Printable(some)
		}
	}
	return jose.Printable(text)
}

// because is what the sessions' users are told.
func (v *verdict) because(t *Transmitter, now time.Time) session.End {
	message := v.name
	if v.message != "" {
		message = fmt.Sprintf("%s: %s", v.name, v.message)
	}
	return session.End{Reason: session.ReasonProvider, By: t.Issuer, Message: jose.Printable(message), At: now}
}
