// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// beginner begins sign-ins for made-up keys, each a little later than the one before.
type beginner struct {
	*Logins
	n int
}

func newBeginner(t *testing.T) *beginner {
	t.Helper()
	b := &beginner{}
	log := slog.New(slog.DiscardHandler)
	b.Logins = NewLogins(LoginsConfig{Providers: providersOf(newHostile(t).provider(t, nil)), Vault: NewVault(log, nil), Log: log})
	start := time.Now()
	b.now = func() time.Time { return start.Add(time.Duration(b.n) * time.Millisecond) }
	return b
}

func (b *beginner) begin(source string) (api.LoginStarted, error) {
	b.n++
	var key session.Key
	copy(key[:], fmt.Sprint(b.n))
	return b.Begin(key, netip.MustParseAddr(source), api.LoginRequest{Redirect: "http://127.0.0.1:1/", State: "12345678"}, nil)
}

// open opens the page of a sign-in, and reports whether it is still known.
func (b *beginner) open(s api.LoginStarted) bool {
	_, err := b.Open(s.URL[strings.LastIndex(s.URL, "/")+1:], "browser")
	return err == nil
}

// TestOneSourceCannotShutOthersOut: one who begins sign-ins without end takes nobody's place but
// those that nobody looks at.
func TestOneSourceCannotShutOthersOut(t *testing.T) {
	b := newBeginner(t)
	mine, err := b.begin("192.0.2.1")
	if err != nil || !b.open(mine) {
		t.Fatal(err)
	}
	other, err := b.begin("192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := b.begin("192.0.2.2")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * maxLoginsPerSource {
		if _, err := b.begin("192.0.2.1"); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.pending.bySource[netip.MustParsePrefix("192.0.2.1/32")]; n != maxLoginsPerSource {
		t.Errorf("%d sign-ins from one source", n)
	}
	if !b.open(mine) || !b.open(elsewhere) {
		t.Error("a sign-in that is open, or from elsewhere, was pushed out")
	}
	if b.open(other) {
		t.Error("the oldest that nobody opened is still there")
	}
}

func TestLoginsAreBounded(t *testing.T) {
	b := newBeginner(t)
	for i := range maxLogins + 1 {
		s, err := b.begin(fmt.Sprintf("10.0.%d.%d", i>>8, i&255))
		if i < maxLogins {
			if err != nil || !b.open(s) {
				t.Fatalf("sign-in %d: %v", i, err)
			}
			continue
		}
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeTooMany {
			t.Errorf("sign-in %d: %v; want too many", i, err)
		}
	}
	b.now = func() time.Time { return time.Now().Add(2 * loginLifetime) }
	if _, err := b.begin("10.0.0.1"); err != nil || len(b.pending.byKey) != 1 || len(b.pending.bySource) != 1 || len(b.pending.byStart) != 1 || len(b.pending.byState) != 1 {
		t.Errorf("after all have expired: %v, %d left", err, len(b.pending.byKey))
	}
}
