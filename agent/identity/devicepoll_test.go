// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// poll asks about s, which must not be over.
func (d *devices) poll(t *testing.T, s api.DeviceStarted) *api.DevicePending {
	t.Helper()
	_, pending, err := d.PollDevice(t.Context(), session.Key{1}, s.Login)
	if err != nil || pending == nil {
		t.Fatalf("poll: %+v, %v", pending, err)
	}
	return pending
}

// TestDeviceIntervals polls four times a second and looks at when the provider is asked: no client can make the agent ask
// sooner than the provider wants.
func TestDeviceIntervals(t *testing.T) {
	pending, slow, down := says(400, "authorization_pending"), says(400, "slow_down"), says(503, "")
	for _, tc := range []struct {
		name    string
		answers []func() (int, any)
		want    []int // seconds between the polls that the provider sees
		problem bool  // told to the user in the end
	}{
		{"pending", []func() (int, any){pending, pending, pending}, []int{5, 5, 5}, false},
		{"slow_down", []func() (int, any){slow, pending, slow, pending}, []int{5, 10, 10, 15}, false},
		{"down", []func() (int, any){down, down, pending, pending}, []int{5, 10, 20, 5}, false},
		{"down for long", []func() (int, any){down, down, down, down, down, down}, []int{5, 10, 20, 40, 60, 60}, true},
		{"no JSON", []func() (int, any){func() (int, any) { return 400, "<html>" }, pending}, []int{5, 10}, false},
		{"too many requests", []func() (int, any){says(429, ""), pending}, []int{5, 10}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDevices(t)
			var at []int64
			d.says = func() (int, any) {
				at = append(at, d.ahead.Load())
				return tc.answers[min(len(at), len(tc.answers))-1]()
			}
			s := d.begin(t)
			var last *api.DevicePending
			for len(at) < len(tc.want) {
				last = d.poll(t, s)
				d.wait(250 * time.Millisecond)
			}
			var gaps []int
			for i := range at {
				before := int64(0)
				if i > 0 {
					before = at[i-1]
				}
				gaps = append(gaps, int(time.Duration(at[i]-before)/time.Second))
			}
			if !slices.Equal(gaps, tc.want) || (last.Problem != "") != tc.problem {
				t.Errorf("asked after %v s, want %v; told %+v", gaps, tc.want, last)
			}
		})
	}
}

// What ends a device sign-in is told, and leaves neither a session nor tokens.
func TestDeviceRefusals(t *testing.T) {
	claims := func(change func(map[string]any)) func(*testing.T, *devices) (int, any) {
		return func(t *testing.T, d *devices) (int, any) {
			c := d.idp.goodClaims()
			delete(c, "nonce")
			change(c)
			tok := d.idp.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, marshal(t, c))
			return 200, map[string]any{"access_token": "access", "refresh_token": "refresh", "id_token": tok}
		}
	}
	answer := func(status int, a any) func(*testing.T, *devices) (int, any) {
		return func(*testing.T, *devices) (int, any) { return status, a }
	}
	code := func(status int, code string) func(*testing.T, *devices) (int, any) {
		return answer(status, map[string]string{"error": code, "error_description": "SECRET"})
	}
	for _, tc := range []struct {
		name    string
		says    func(*testing.T, *devices) (int, any)
		code    string
		message string
		revoked int64
	}{
		{"denied", code(400, "access_denied"), api.CodeProviderFailed, "declined", 0},
		{"denied, status 200", code(200, "access_denied"), api.CodeProviderFailed, "declined", 0},
		{"expired", code(400, "expired_token"), api.CodeLoginInvalid, "in time", 0},
		{"unknown client", code(401, "invalid_client"), api.CodeProviderFailed, "401: invalid_client", 0},
		{"used code", code(400, "invalid_grant"), api.CodeProviderFailed, "invalid_grant", 0},
		{"no error code", answer(400, map[string]any{}), api.CodeProviderFailed, "no error code", 0},
		{"escape in the error", code(400, "a\x1b[31m"), api.CodeProviderFailed, "provider answered 400", 0},
		{"nothing", answer(200, map[string]any{}), api.CodeProviderFailed, "no ID token", 0},
		{"no ID token", answer(200, map[string]any{"access_token": "a", "refresh_token": "r"}), api.CodeProviderFailed, "no ID token", 2},
		{"ID token of somebody else", claims(func(c map[string]any) { c["aud"] = "them" }), api.CodeProviderFailed, "audience", 2},
		{"ID token without sub", claims(func(c map[string]any) { delete(c, "sub") }), api.CodeProviderFailed, "sub", 2},
		{"ID token of another sign-in", claims(func(c map[string]any) { c["nonce"] = "x" }), api.CodeProviderFailed, "nonce", 2},
		{"expired ID token", claims(func(c map[string]any) { c["exp"] = time.Now().Unix() - 1 }), api.CodeProviderFailed, "expired", 2},
		{"wrong at_hash", claims(func(c map[string]any) { c["at_hash"] = "AAAAAAAAAAAAAAAAAAAAAA" }), api.CodeProviderFailed, "access token", 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDevices(t)
			d.says = func() (int, any) { return tc.says(t, d) }
			s := d.begin(t)
			d.wait(5 * time.Second)
			_, _, err := d.PollDevice(t.Context(), session.Key{1}, s.Login)
			if codeOf(err) != tc.code || !strings.Contains(err.Error(), tc.message) || strings.ContainsAny(err.Error(), "\x1b") || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("poll: %v", err)
			}
			waitFor(t, func() bool { return d.idp.revoked.Load() == tc.revoked })
			if _, _, err := d.PollDevice(t.Context(), session.Key{1}, s.Login); codeOf(err) != api.CodeLoginInvalid || d.table.made.Load() != 0 {
				t.Errorf("poll again: %v, %d sessions", err, d.table.made.Load())
			}
		})
	}
}

// TestDeviceHandleIsOfOneKey: who has got hold of the handle gets no session with it, and neither does its owner then.
func TestDeviceHandleIsOfOneKey(t *testing.T) {
	d := newDevices(t)
	s := d.begin(t)
	d.wait(5 * time.Second)
	for _, key := range []session.Key{{2}, {1}} {
		if _, _, err := d.PollDevice(t.Context(), key, s.Login); codeOf(err) != api.CodeLoginInvalid {
			t.Errorf("key %v: %v", key[0], err)
		}
	}
	if d.polls.Load() != 0 || d.table.made.Load() != 0 {
		t.Errorf("%d polls, %d sessions", d.polls.Load(), d.table.made.Load())
	}
	if _, err := d.Open(s.Login, "browser"); codeOf(err) != api.CodeLoginInvalid {
		t.Errorf("the handle as a link: %v", err)
	}
	if _, err := d.Complete(t.Context(), session.Key{1}, s.Login); codeOf(err) != api.CodeLoginInvalid {
		t.Errorf("the handle as a one-time code: %v", err)
	}
}

// TestDevicePollsAtOnce: of many polls at once one asks the provider, and there is one session.
func TestDevicePollsAtOnce(t *testing.T) {
	d := newDevices(t)
	tokens, arrived, answer := d.tokens(t), make(chan struct{}), make(chan struct{})
	d.says = func() (int, any) {
		close(arrived) // a second one panics
		<-answer
		return tokens()
	}
	s := d.begin(t)
	d.wait(5 * time.Second)
	var first sync.WaitGroup
	first.Go(func() {
		if _, pending, err := d.PollDevice(t.Context(), session.Key{1}, s.Login); err != nil || pending != nil {
			t.Errorf("the first: %+v, %v", pending, err)
		}
	})
	<-arrived
	d.poll(t, s)
	close(answer)
	first.Wait()
	if d.table.made.Load() != 1 || d.polls.Load() != 1 {
		t.Errorf("%d sessions, %d polls", d.table.made.Load(), d.polls.Load())
	}
}

// TestDeviceNobodyTakesTheSession: a client that has hung up finds the session at its next poll; if there is none, the
// tokens are revoked.
func TestDeviceNobodyTakesTheSession(t *testing.T) {
	for _, back := range []bool{true, false} {
		d := newDevices(t)
		ctx, hangUp := context.WithCancel(t.Context())
		tokens := d.tokens(t)
		d.says = func() (int, any) { hangUp(); return tokens() }
		s := d.begin(t)
		d.wait(5 * time.Second)
		if _, pending, err := d.PollDevice(ctx, session.Key{1}, s.Login); err != nil || pending == nil || d.table.made.Load() != 0 {
			t.Errorf("hung up: %+v, %v", pending, err)
		}
		if back {
			if _, pending, err := d.PollDevice(t.Context(), session.Key{1}, s.Login); err != nil || pending != nil || d.table.made.Load() != 1 {
				t.Errorf("back: %+v, %v", pending, err)
			}
			continue
		}
		d.wait(codeLifetime + time.Second)
		d.mu.Lock()
		d.sweepLocked()
		d.mu.Unlock()
		waitFor(t, func() bool { return d.idp.revoked.Load() == 2 })
	}
}

func TestDeviceExpiry(t *testing.T) {
	d := newDevices(t)
	d.says = says(400, "authorization_pending")
	s := d.begin(t)
	d.wait(5*time.Minute + time.Second)
	if _, _, err := d.PollDevice(t.Context(), session.Key{1}, s.Login); codeOf(err) != api.CodeLoginInvalid || !strings.Contains(err.Error(), "in time") || d.polls.Load() != 0 {
		t.Errorf("poll: %v", err)
	}
	if n := len(d.Logins.pending.byHandle); n != 0 {
		t.Errorf("%d left", n)
	}
}

// A sign-in that another has replaced while the provider was asked makes no session, and its tokens are revoked.
func TestDeviceReplacedMeanwhile(t *testing.T) {
	d := newDevices(t)
	tokens := d.tokens(t)
	d.says = func() (int, any) { d.begin(t); return tokens() }
	s := d.begin(t)
	d.wait(5 * time.Second)
	if _, _, err := d.PollDevice(t.Context(), session.Key{1}, s.Login); codeOf(err) != api.CodeLoginInvalid || d.table.made.Load() != 0 {
		t.Errorf("poll: %v", err)
	}
	waitFor(t, func() bool { return d.idp.revoked.Load() == 2 })
}

func TestDeviceStartsAreLimited(t *testing.T) {
	d := newDevices(t)
	asked := 0
	d.idp.device = func(w http.ResponseWriter, r *http.Request) { asked++; answerDevice(d.idp.URL, nil)(w, r) }
	refused := 0
	for i := range 100 {
		if _, err := d.BeginDevice(t.Context(), session.Key{byte(i)}, netip.MustParseAddr("192.0.2.1"), api.DeviceRequest{}); codeOf(err) == api.CodeTooMany {
			refused++
		}
	}
	if asked+refused != 100 || refused < 30 {
		t.Errorf("the provider was asked %d times, %d were refused", asked, refused)
	}
	if _, err := d.BeginDevice(t.Context(), session.Key{200}, netip.MustParseAddr("192.0.2.2"), api.DeviceRequest{}); err != nil {
		t.Errorf("somebody else: %v", err)
	}
}

func TestDeviceIsOffByDefault(t *testing.T) {
	d := newDevices(t)
	reconfigure(t, d.Logins.cfg.Providers, func(c *Config) { c.Device = false })
	d.idp.device = func(http.ResponseWriter, *http.Request) { t.Error("the provider was asked") }
	if _, err := d.BeginDevice(t.Context(), session.Key{1}, netip.Addr{}, api.DeviceRequest{}); codeOf(err) != api.CodeForbidden || !strings.Contains(err.Error(), "switched off") {
		t.Errorf("begin: %v", err)
	}
	h := newHostile(t)
	h.discovery = func(doc map[string]any) { delete(doc, "device_authorization_endpoint") }
	d.Logins.cfg.Providers = providersOf(h.provider(t, func(c *Config) { c.Device = true }))
	if _, err := d.BeginDevice(t.Context(), session.Key{1}, netip.Addr{}, api.DeviceRequest{}); codeOf(err) != api.CodeUnavailable {
		t.Errorf("a provider without: %v", err)
	}
}
