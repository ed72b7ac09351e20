// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"errors"
	"log/slog"
	"net/netip"
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
		table: table, clock: hostclock.Clock{}, heed: func() error { return nil }, config: func() *bundle { return &bundle{Config: c} },
		observe: &observer{log: slog.New(slog.DiscardHandler), events: control.NewEvents(1)},
	}, takeovers
}

func aMachine(key byte, notAfter time.Time) identity.NewSession {
	return identity.NewSession{Identity: session.Identity{Issuer: "https://ci.example", Subject: "job"}, Key: session.Key{key}, Method: "token",
		Credential: session.Credential{1}, NotAfter: notAfter}
}

func TestSessionEndsWithItsToken(t *testing.T) {
	const none = 1000 * time.Hour // the token does not bound the session
	for _, tc := range []struct{ age, left, want time.Duration }{
		{0, 10 * time.Minute, 10 * time.Minute},
		{30 * time.Minute, 10 * time.Minute, 10 * time.Minute},
		{0, 10 * time.Hour, time.Hour},
		{20 * time.Minute, 10 * time.Hour, 40 * time.Minute}, // the timeout runs from the token's issue
		{20 * time.Minute, none, 40 * time.Minute},
		{-time.Minute, 10 * time.Minute, 10 * time.Minute}, // the issuer's clock is ahead
		{0, -time.Second, 0},
		{2 * time.Hour, 10 * time.Minute, 0},
	} {
		s, _ := newSignIns(t)
		n := aMachine(1, time.Now().Add(tc.left))
		if tc.left == none {
			n.NotAfter = time.Time{}
		}
		n.Authenticated = time.Now().Add(-tc.age)
		made, err := s.Create(t.Context(), n)
		if tc.want == 0 {
			var e *api.Error
			if !errors.As(err, &e) || e.Code != api.CodeTokenRefused {
				t.Errorf("%v old, %v left: %v", tc.age, tc.left, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if lasts := made.Deadline.Sub(made.Created); lasts > tc.want+time.Millisecond || lasts < tc.want-time.Minute {
			t.Errorf("%v old, %v left: a session of %v, want %v", tc.age, tc.left, lasts, tc.want)
		}
	}
}

// A stolen token is of no use, and what ended all sessions of a machine has ended its older tokens too.
func TestMachineTokenIsOfOneKey(t *testing.T) {
	s, _ := newSignIns(t)
	if _, err := s.Create(t.Context(), aMachine(1, time.Time{})); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), aMachine(2, time.Time{})); !errors.Is(err, session.ErrCredentialUsed) {
		t.Errorf("with another key: %v", err)
	}
	mark := session.Watermark{Subject: "job", Before: session.OriginTime(s.clock.Boot()), End: session.End{Reason: session.ReasonKilled}}
	if _, _, err := s.table.Raise(mark); err != nil {
		t.Fatal(err)
	}
	for age, want := range map[time.Duration]error{time.Minute: session.ErrWatermark, 0: nil} {
		n := aMachine(3, time.Time{})
		n.Credential, n.Authenticated = session.Credential{7}, time.Now().Add(-age)
		if _, err := s.Create(t.Context(), n); !errors.Is(err, want) {
			t.Errorf("a token that is %v older than the end of all: %v, want %v", age, err, want)
		}
	}
}

// A fault it keeps out: whoever held the browser back at the last step, or entered a code for a device, while the provider
// signed the user out, had a session afterwards. The session's time runs from when the provider was asked, all the same.
func TestSignInUnderWayWhenAllWereEnded(t *testing.T) {
	s, _ := newSignIns(t)
	mark := session.Watermark{Issuer: "https://idp", Subject: "alice", Before: session.OriginTime(s.clock.Boot()), End: session.End{Reason: session.ReasonProvider}}
	if _, _, err := s.table.Raise(mark); err != nil {
		t.Fatal(err)
	}
	raised := time.Now()
	sign := func(key byte, begun time.Time) (session.Session, error) {
		return s.Create(t.Context(), identity.NewSession{Identity: session.Identity{Issuer: "https://idp", Subject: "alice"}, Key: session.Key{key},
			Method: "browser", Revalidated: true, Authenticated: time.Now(), Begun: begun})
	}
	if made, err := sign(1, raised.Add(-5*time.Minute)); !errors.Is(err, session.ErrWatermark) {
		t.Errorf("begun before, finished after: %+v, %v", made, err)
	}
	if _, err := sign(2, raised); err != nil {
		t.Errorf("begun after: %v", err)
	}
	s, _ = newSignIns(t)
	made, err := sign(1, time.Now().Add(-10*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if lasts := made.Deadline.Sub(made.Created); lasts > time.Hour || lasts < time.Hour-time.Minute {
		t.Errorf("a sign-in that took ten minutes makes a session of %v, want an hour", lasts)
	}
	if before := time.Duration(made.Validated - made.Born); before < 9*time.Minute {
		t.Errorf("the provider's last word is %v younger than the beginning, want ten minutes", before)
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

// Whoever shares an address shares the session that is bound to it: off unless the operator says otherwise, and
// for addresses of the Internet unless he says so twice.
func TestBindingAnAddressIsRefused(t *testing.T) {
	off, on, public := config.BindAddress{}, config.BindAddress{Enabled: true}, config.BindAddress{Enabled: true, AllowPublic: true}
	for _, tc := range []struct {
		addr string
		c    config.BindAddress
		ok   bool
	}{
		{"10.1.2.3", off, false},
		{"127.0.0.1", off, false},
		{"10.1.2.3", config.BindAddress{AllowPublic: true}, false},
		{"10.1.2.3", on, true},
		{"192.168.0.9", on, true},
		{"127.0.0.1", on, true},
		{"::1", on, true},
		{"fd00::7", on, true},
		{"fe80::7", on, true},
		{"8.8.8.8", on, false},
		{"::ffff:8.8.8.8", on, false},
		{"2001:4860::8888", on, false},
		{"100.64.0.1", on, false}, // shared by a provider's customers (RFC 6598)
		{"8.8.8.8", public, true},
		{"2001:4860::8888", public, true},
	} {
		for _, addrs := range [][]netip.Addr{{netip.MustParseAddr(tc.addr)}, {netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr(tc.addr)}} {
			err := checkBindAddrs(addrs, tc.c)
			var e *api.Error
			if (err == nil) != tc.ok || err != nil && (!errors.As(err, &e) || e.Code != api.CodeForbidden || e.Hint == "") {
				t.Errorf("%v with %+v: %v", addrs, tc.c, err)
			}
		}
	}
	if err := checkBindAddrs(nil, off); err != nil {
		t.Errorf("nothing to bind: %v", err)
	}
}

// The token of a machine needs no user who was authenticated; that of an issuer where people sign in, too, may be a person's.
func TestFreshOfTokens(t *testing.T) {
	s, _ := newSignIns(t)
	changed := time.Now().Add(-time.Minute).Truncate(time.Second)
	w := session.Watermark{Issuer: "https://ci.example", Subject: "job", Before: session.OriginTime(s.clock.Boot()), Fresh: session.FreshFrom(changed),
		End: session.End{Reason: session.ReasonProvider, At: time.Now()}}
	if _, _, err := s.table.Raise(w); err != nil {
		t.Fatal(err)
	}
	for i, tc := range []struct {
		people bool
		at     time.Time
		want   error
	}{
		{false, time.Time{}, nil}, {false, changed, nil}, {false, changed.Add(-time.Second), session.ErrNotFresh},
		{true, time.Time{}, session.ErrNotFresh}, {true, changed, nil}, {true, changed.Add(-time.Second), session.ErrNotFresh},
	} {
		c := s.config().Config
		if c.Providers = nil; tc.people {
			c.Providers = []config.Provider{{Issuer: "https://ci.example"}}
		}
		n := aMachine(byte(i+1), time.Time{})
		n.Credential, n.Identity.AuthTime = session.Credential{byte(i + 1)}, tc.at
		if _, err := s.Create(t.Context(), n); !errors.Is(err, tc.want) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}
