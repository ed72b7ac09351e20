// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// TestSessionsSayWhenTheirSignInBegan: whom a provider signs out while a sign-in is under way, it has signed out of that, too.
// What the session table makes of it is in package agent.
func TestSessionsSayWhenTheirSignInBegan(t *testing.T) {
	t.Run("browser", func(t *testing.T) {
		before := time.Now()
		honest, _, l, at := twoProviders(t)
		table, opened := &oneSession{}, time.Now()
		l.cfg.Sessions = table
		honest.token = func(w http.ResponseWriter, _ *http.Request) {
			writeTokens(w, 1, honest.sign(t, l.pending.byKey[session.Key{1}].secrets.nonce, nil))
		}
		to, err := l.Callback(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		end, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Complete(t.Context(), session.Key{1}, end.Query().Get("code")); err != nil {
			t.Fatal(err)
		}
		made := table.last.Load()
		if made.Begun.Before(before) || made.Begun.After(opened) || made.Authenticated.Before(opened) {
			t.Errorf("begun %v before the page was open, authenticated %v after", opened.Sub(made.Begun), made.Authenticated.Sub(opened))
		}
	})
	t.Run("device", func(t *testing.T) {
		d := newDevices(t)
		began := d.now()
		s := d.begin(t)
		d.wait(time.Minute)
		if _, _, err := d.PollDevice(t.Context(), session.Key{1}, s.Login); err != nil {
			t.Fatal(err)
		}
		if made := d.table.last.Load(); !made.Begun.Equal(began) {
			t.Errorf("begun %v after the code was asked for", made.Begun.Sub(began))
		}
	})
}
