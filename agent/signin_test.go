// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/control"
	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/agent/session"
)

// newSignIns is signing in on a real session table, with an absolute timeout of an hour.
func newSignIns(t *testing.T) (*signIns, *[]session.Takeover) {
	t.Helper()
	takeovers := new([]session.Takeover)
	table, err := session.NewTable(session.TableConfig{Clock: hostclock.Clock{}, OnSupersede: func(o session.Takeover) { *takeovers = append(*takeovers, o) }})
	if err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	c.Sessions.AbsoluteTimeout = time.Hour
	return &signIns{
		table: table, wall: time.Now, heed: func() error { return nil }, config: func() *bundle { return &bundle{Config: c} },
		observe: &observer{log: slog.New(slog.DiscardHandler), events: control.NewEvents(1)},
	}, takeovers
}

func aMachine(key byte, notAfter time.Time) identity.NewSession {
	return identity.NewSession{Identity: session.Identity{Issuer: "https://ci.example", Subject: "job"}, Key: session.Key{key}, Method: "token",
		Credential: session.Credential{1}, NotAfter: notAfter}
}

func TestSessionEndsWithItsToken(t *testing.T) {
	s, _ := newSignIns(t)
	for left, want := range map[time.Duration]time.Duration{10 * time.Minute: 10 * time.Minute, 10 * time.Hour: time.Hour, 0: time.Hour} {
		var notAfter time.Time
		if left != 0 {
			notAfter = time.Now().Add(left)
		}
		made, err := s.Create(t.Context(), aMachine(1, notAfter))
		if err != nil {
			t.Fatal(err)
		}
		if lasts := made.Deadline.Sub(made.Created); lasts > want || lasts < want-time.Minute {
			t.Errorf("a token with %v left made a session of %v, want %v", left, lasts, want)
		}
	}
	var e *api.Error
	if _, err := s.Create(t.Context(), aMachine(2, time.Now().Add(-time.Second))); !errors.As(err, &e) || e.Code != api.CodeTokenRefused {
		t.Errorf("a token that has expired meanwhile: %v", err)
	}
}

// A machine that signs in again keeps its connections.
func TestMachineRenewsWithoutACut(t *testing.T) {
	s, takeovers := newSignIns(t)
	first, err := s.Create(t.Context(), aMachine(1, time.Now().Add(10*time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	conn := session.NewConnection(first.ID)
	if _, _, err := s.table.Attach(conn); err != nil {
		t.Fatal(err)
	}
	second, err := s.Create(t.Context(), aMachine(1, time.Now().Add(20*time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	if len(*takeovers) != 1 || conn.Session() != second.ID || second.Supersedes != first.ID || !second.Deadline.After(first.Deadline) {
		t.Errorf("%d takeovers, the connection is of %s, want %s", len(*takeovers), conn.Session().Short(), second.ID.Short())
	}
	if ended, _ := s.table.Detach(conn); ended != nil {
		t.Errorf("the connection was ended: %+v", ended)
	}
	other := aMachine(1, time.Time{})
	other.Identity.Subject = "somebody else"
	if _, err := s.Create(t.Context(), other); err == nil {
		t.Error("the key of a live session was given to somebody else")
	}
}
