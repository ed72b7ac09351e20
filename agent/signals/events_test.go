// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/session"
)

const (
	endAlice = "end sub alice at " + provider
	askAlice = "ask sub alice at " + provider
)

func TestEvents(t *testing.T) {
	for _, tc := range []struct {
		event, config string
		payload       object
		want, outcome string
	}{
		{revoked, "", nil, endAlice, EventEnded},
		{caepTypes + "token-claims-change", "", object{"claims": object{"role": "ro"}}, askAlice, EventReconsidered},
		{caepTypes + "assurance-level-change", "", object{"current_level": "nist-aal1", "change_direction": "decrease"}, askAlice, EventReconsidered},
		{caepTypes + "credential-change", "", object{"credential_type": "password", "change_type": "update"}, endAlice, EventEnded},
		{caepTypes + "credential-change", "", object{"credential_type": "fido2-roaming", "change_type": "create"}, endAlice, EventEnded},
		{caepTypes + "credential-change", Ends, nil, endAlice, EventEnded},
		{caepTypes + "credential-change", Reconsiders, object{"credential_type": "pin", "change_type": "revoke"}, askAlice, EventReconsidered},
		{caepTypes + "credential-change", WantsFresh, object{"credential_type": "password", "change_type": "update"}, freshAlice, EventEnded},
		{riscTypes + "credential-compromise", WantsFresh, nil, freshAlice, EventEnded},
		{revoked, WantsFresh, nil, endAlice, EventEnded},
		{caepTypes + "device-compliance-change", "", object{"current_status": "not-compliant", "previous_status": "compliant"}, endAlice, EventEnded},
		{caepTypes + "device-compliance-change", "", object{"current_status": "compliant", "previous_status": "not-compliant"}, "", EventIgnored},
		{caepTypes + "device-compliance-change", "", nil, endAlice, EventEnded},
		{caepTypes + "device-compliance-change", "", object{"current_status": 1}, endAlice, EventEnded},
		{caepTypes + "device-compliance-change", Ignores, object{"current_status": "not-compliant"}, "", EventIgnored},
		{caepTypes + "session-established", "", nil, "", EventIgnored},
		{caepTypes + "session-presented", "", nil, "", EventIgnored},
		{caepTypes + "risk-level-change", "", object{"current_level": "HIGH"}, "", EventIgnored},
		{riscTypes + "account-disabled", "", object{"reason": "hijacking"}, endAlice, EventEnded},
		{riscTypes + "account-purged", "", nil, endAlice, EventEnded},
		{riscTypes + "account-credential-change-required", "", nil, endAlice, EventEnded},
		{riscTypes + "credential-compromise", "", object{"credential_type": "password"}, endAlice, EventEnded},
		{riscTypes + "credential-compromise", Reconsiders, nil, askAlice, EventReconsidered},
		{riscTypes + "sessions-revoked", "", nil, endAlice, EventEnded},
		{riscTypes + "account-enabled", "", nil, "", EventIgnored},
		{riscTypes + "identifier-changed", "", nil, "", EventIgnored},
		{"https://idp.example/of-its-own", "", nil, "", EventIgnored},
		{strings.ToUpper(revoked), "", nil, "", EventIgnored},
	} {
		g := newRig(t)
		r := g.receiver(func(t *Transmitter) {
			t.CredentialChange = tc.config
			if tc.config == Ignores {
				t.CredentialChange, t.DeviceCompliance = "", Ignores
			}
		})
		err := r.take(t.Context(), g.sign(g.claims(tc.event, alice(), tc.payload)), "test")
		did, counted := strings.Join(g.sessions.taken(), ", "), g.counts.all()
		if err != nil || did != tc.want || counted != tc.outcome+":1" {
			t.Errorf("%s (%s) %v: %v, did %q, counted %s; want %q, %s", tc.event, tc.config, tc.payload, err, did, counted, tc.want, tc.outcome)
		}
	}
}

func TestWhereSubjectsStand(t *testing.T) {
	g := newRig(t)
	r := g.receiver()
	bob := issSub(provider, "bob")
	for _, tc := range []struct {
		name       string
		top, event any
		want       []string
		refused    string
	}{
		{"in the event, as before SSF 1.0", nil, alice(), []string{endAlice}, ""},
		{"in both places", alice(), alice(), []string{endAlice}, ""},
		{"in both, with one that cannot be known", alice(), object{"format": "account", "uri": "acct:a@b"}, []string{endAlice}, ""},
		{"in both, and they differ", alice(), bob, []string{endAlice, "end sub bob at " + provider}, ""},
		{"nowhere", nil, nil, nil, "no subject"},
		{"in both, one malformed", alice(), object{"format": "email"}, nil, "email is missing"},
		{"at the top, malformed", "alice", nil, nil, "not a JSON object"},
	} {
		payload := object{}
		if tc.event != nil {
			payload["subject"] = tc.event
		}
		claims := g.claims(revoked, nil, payload)
		if tc.top != nil {
			claims["sub_id"] = tc.top
		}
		err := r.take(t.Context(), g.sign(claims), "test")
		var refused *refusal
		if did := g.sessions.taken(); !slices.Equal(did, tc.want) || errors.As(err, &refused) != (tc.refused != "") || err != nil && !strings.Contains(err.Error(), tc.refused) {
			t.Errorf("%s: %v, did %q; want %q %s", tc.name, err, did, tc.want, tc.refused)
		}
	}
}

// Of whom nothing is known, nothing is told: that is no fault of the event's.
func TestSubjectsOfNobody(t *testing.T) {
	g := newRig(t)
	r := g.receiver()
	for outcome, subject := range map[string]object{
		EventUnmapped: {"format": "phone_number", "phone_number": "+12065550100"},
		EventForeign:  issSub("https://evil.example", "alice"),
		EventCritical: {"format": "complex", "user": alice(), "tenant": opaque("t")},
	} {
		g.metadata["critical_subject_members"] = []string{"tenant"}
		err := r.take(t.Context(), g.sign(g.claims(revoked, subject, nil)), "test")
		if did, counted := g.sessions.taken(), g.counts.all(); err != nil || len(did) > 0 || counted != outcome+":1" {
			t.Errorf("%v, did %q, counted %s; want %s", err, did, counted, outcome)
		}
	}
	if !strings.Contains(g.logs.String(), "level=WARN") {
		t.Error("nobody would see it")
	}
}

func TestSeveralEvents(t *testing.T) {
	g := newRig(t)
	r := g.receiver()
	claims := g.claims(revoked, alice(), nil)
	claims["events"] = object{caepTypes + "token-claims-change": object{}, riscTypes + "sessions-revoked": object{}, "https://idp.example/of-its-own": object{}}
	if err := r.take(t.Context(), g.sign(claims), "test"); err != nil {
		t.Error(err)
	}
	if did := g.sessions.taken(); !slices.Equal(did, []string{endAlice}) {
		t.Errorf("did %q; want what the strongest says, once", did)
	}
}

// What users are told comes from the event, and is fit to be shown.
func TestReasonsForUsers(t *testing.T) {
	g := newRig(t)
	r := g.receiver()
	for _, tc := range []struct {
		reason any
		want   string
	}{
		{nil, "session-revoked"},
		{object{"de": "Zu weit gereist.", "en-GB": "Landspeed violation."}, "session-revoked: Landspeed violation."},
		{object{"it": "Troppo veloce."}, "session-revoked: Troppo veloce."},
		{"Landspeed.", "session-revoked: Landspeed."},
		{object{"en": "a\x1b[31m\nb\u202e"}, "session-revoked: a[31mb"},
		{object{"en": 1}, "session-revoked"},
		{object{"en": strings.Repeat("x", 1000)}, "session-revoked: " + strings.Repeat("x", 239)},
	} {
		if err := r.take(t.Context(), g.sign(g.claims(revoked, alice(), object{"reason_user": tc.reason, "reason_admin": object{"en": "secret"}})), "test"); err != nil {
			t.Error(err)
		}
		if e := g.sessions.last; e.Message != tc.want || e.By != g.issuer() || e.Reason != session.ReasonProvider {
			t.Errorf("%v: %+v, want %q", tc.reason, e, tc.want)
		}
	}
}

// Whoever sends it: if one of several cannot be ended the others are, and it is to be sent again.
func TestEndingsThatFail(t *testing.T) {
	g := newRig(t)
	r := g.receiver()
	calls := 0
	g.sessions.before = func() {
		calls++
		g.sessions.set(nil)
		if calls == 1 {
			g.sessions.set(errors.New("disk full"))
		}
	}
	if err := r.take(t.Context(), g.sign(g.claims(revoked, email("a@x.example"), nil)), "test"); !errors.Is(err, errNotDone) {
		t.Errorf("%v", err)
	}
	if did := g.sessions.taken(); len(did) != 1 || calls != 2 || g.counts.all() != "event-failed:1" {
		t.Errorf("did %q in %d calls", did, calls)
	}
}

func TestStreamEvents(t *testing.T) {
	g := newRig(t)
	r := g.receiver()
	for _, tc := range []struct {
		name, event string
		subject     any
		payload     object
		code        string
	}{
		{"verification that nobody asked for", typeVerification, opaque("s"), object{}, ""},
		{"verification before SSF 1.0", typeVerification, nil, object{}, ""},
		{"verification with another's state", typeVerification, opaque("s"), object{"state": "VGhpcyBpcyBhbiBleGFtcGxlIHN0YXRlIHZhbHVlLgo="}, codeState},
		{"verification with a forged state", typeVerification, opaque("s"), object{"state": strings.Repeat("A", 43)}, codeState},
		{"verification with a number", typeVerification, opaque("s"), object{"state": 1}, codeState},
		{"verification of a user", typeVerification, alice(), object{}, codeRequest},
		{"paused", typeStreamUpdated, opaque("s"), object{"status": "paused", "reason": "maintenance"}, ""},
		{"enabled", typeStreamUpdated, opaque("s"), object{"status": "enabled"}, ""},
		{"updated, of a user", typeStreamUpdated, email("a"), object{"status": "enabled"}, codeRequest},
		{"updated, with a number", typeStreamUpdated, opaque("s"), object{"status": 1}, codeRequest},
	} {
		claims := g.claims(tc.event, nil, tc.payload)
		if tc.subject != nil {
			claims["sub_id"] = tc.subject
		}
		err := r.take(t.Context(), g.sign(claims), "test")
		var refused *refusal
		if errors.As(err, &refused) != (tc.code != "") || refused != nil && refused.code != tc.code || err != nil && refused == nil {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.code)
		}
	}
	claims := g.claims(typeVerification, opaque("s"), nil)
	claims["events"] = object{typeVerification: object{}, revoked: object{"subject": alice()}}
	var refused *refusal
	if err := r.take(t.Context(), g.sign(claims), "test"); !errors.As(err, &refused) {
		t.Errorf("an event that hides another: %v", err)
	}
	if counted := g.counts.all(); counted != "event-refused:7 event-stream-updated:2 event-verification:2" {
		t.Errorf("counted %s", counted)
	}
	if did := g.sessions.taken(); len(did) > 0 {
		t.Errorf("did %q", did)
	}
}
