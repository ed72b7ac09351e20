// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// oneSession is a session table that makes what it is asked for, and forgets it.
type oneSession struct {
	made atomic.Int64
	last atomic.Pointer[NewSession]
}

func (t *oneSession) Create(_ context.Context, n NewSession) (session.Session, error) {
	t.made.Add(1)
	t.last.Store(&n)
	return session.Session{ID: session.NewID(), Identity: n.Identity, Key: n.Key, Method: n.Method}, nil
}

func (t *oneSession) ByKey(session.Key) (session.Session, error)         { return session.Session{}, nil }
func (t *oneSession) End(context.Context, session.ID, session.End) error { return nil }

// devices is an agent with a hostile provider and a clock of its own.
type devices struct {
	*Logins
	idp   *hostile
	table *oneSession
	ahead atomic.Int64 // of the clock
	polls atomic.Int64 // that the provider has seen
	says  func() (status int, answer any)
}

const deviceCode = "the device's code"

func newDevices(t *testing.T) *devices {
	t.Helper()
	d := &devices{idp: newHostile(t), table: &oneSession{}}
	d.says = d.tokens(t)
	d.idp.device = answerDevice(d.idp.URL, nil)
	d.idp.token = func(w http.ResponseWriter, r *http.Request) {
		d.polls.Add(1)
		if r.PostFormValue("grant_type") != grantDevice || r.PostFormValue("device_code") != deviceCode {
			t.Errorf("poll: %v", r.PostForm)
		}
		checkClient(t, r)
		status, answer := d.says()
		w.WriteHeader(status)
		if text, raw := answer.(string); raw {
			_, _ = w.Write([]byte(text))
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	vault := NewVault(log, nil)
	runVault(t, vault)
	p := d.idp.provider(t, func(c *Config) { c.Device = true })
	d.Logins = NewLogins(LoginsConfig{Providers: providersOf(p), Sessions: d.table, Vault: vault, Log: log})
	start := time.Now()
	d.now = func() time.Time { return start.Add(time.Duration(d.ahead.Load())) }
	return d
}

// checkClient checks that a confidential client says who it is (RFC 6749, section 2.3.1); x/oauth2 does not in this flow.
func checkClient(t *testing.T, r *http.Request) {
	if id, secret, ok := r.BasicAuth(); !ok || id != "us" || secret != "s" || r.PostFormValue("client_secret") != "" {
		t.Errorf("%s: client %q, %v; want the secret in the header alone", r.URL.Path, id, ok)
	}
}

func answerDevice(issuer string, change func(m map[string]any)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		m := map[string]any{"device_code": deviceCode, "user_code": "ABCD-EFGH", "verification_uri": issuer + "/enter",
			"verification_uri_complete": issuer + "/enter?user_code=ABCD-EFGH", "expires_in": 300, "interval": 5}
		if change != nil {
			change(m)
		}
		_ = json.NewEncoder(w).Encode(m)
	}
}

// tokens is the answer to a code that was entered.
func (d *devices) tokens(t *testing.T) func() (int, any) {
	return func() (int, any) {
		claims := d.idp.goodClaims()
		delete(claims, "nonce")
		return 200, map[string]any{"access_token": "access", "refresh_token": "refresh", "token_type": "Bearer",
			"id_token": d.idp.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, marshal(t, claims))}
	}
}

func says(status int, code string) func() (int, any) {
	return func() (int, any) { return status, map[string]string{"error": code, "error_description": "SECRET"} }
}

func (d *devices) begin(t *testing.T) api.DeviceStarted {
	t.Helper()
	s, err := d.BeginDevice(t.Context(), session.Key{1}, netip.MustParseAddr("192.0.2.1"), api.DeviceRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (d *devices) wait(by time.Duration) { d.ahead.Add(int64(by)) }

func codeOf(err error) string {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

func TestDeviceSignIn(t *testing.T) {
	d := newDevices(t)
	d.idp.device = func(w http.ResponseWriter, r *http.Request) {
		checkClient(t, r)
		if r.PostFormValue("client_id") != "us" || r.PostFormValue("scope") != "openid profile email" {
			t.Errorf("device authorization request: %v", r.PostForm)
		}
		answerDevice(d.idp.URL, nil)(w, r)
	}
	s := d.begin(t)
	if s.UserCode != "ABCD-EFGH" || s.VerificationURI != d.idp.URL+"/enter" || s.ExpiresIn.Duration() != 5*time.Minute || s.Interval.Duration() != 5*time.Second {
		t.Errorf("started: %+v", s)
	}
	d.wait(6 * time.Second)
	got, pending, err := d.PollDevice(t.Context(), session.Key{1}, s.Login)
	if err != nil || pending != nil || got.Identity.Subject != "alice" || got.Method != "device" || got.Key != (session.Key{1}) {
		t.Errorf("poll: %+v, %+v, %v", got, pending, err)
	}
	if _, _, err := d.PollDevice(t.Context(), session.Key{1}, s.Login); codeOf(err) != api.CodeLoginInvalid || d.table.made.Load() != 1 {
		t.Errorf("poll again: %v, %d sessions", err, d.table.made.Load())
	}
	if p := &d.Logins.pending; len(p.byKey)+len(p.byHandle)+len(p.bySource) != 0 {
		t.Errorf("left: %+v", p)
	}
}

func TestDeviceAnswersThatAreRefused(t *testing.T) {
	set := func(name string, v any) func(map[string]any) { return func(m map[string]any) { m[name] = v } }
	d := newDevices(t)
	for name, change := range map[string]func(map[string]any){
		"no code":             set("device_code", ""),
		"no user code":        set("user_code", ""),
		"escape in the code":  set("user_code", "\x1b[31m"),
		"long code":           set("user_code", strings.Repeat("A", 65)),
		"no address":          set("verification_uri", ""),
		"script":              set("verification_uri", "javascript:alert(1)"),
		"http":                set("verification_uri", "http://idp.example/"),
		"script, complete":    set("verification_uri_complete", "javascript:alert(1)"),
		"expired":             set("expires_in", 0),
		"expired before":      set("expires_in", -1),
		"error with a code":   set("error", "invalid_client"),
		"number as user code": set("user_code", 1),
	} {
		d.ahead.Add(int64(time.Second)) // the limit of one source forgets
		d.idp.device = answerDevice(d.idp.URL, change)
		if _, err := d.BeginDevice(t.Context(), session.Key{1}, netip.Addr{}, api.DeviceRequest{}); codeOf(err) != api.CodeUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	d.idp.device = answerDevice(d.idp.URL, set("expires_in", 1e300))
	if s := d.begin(t); s.ExpiresIn.Duration() != loginLifetime {
		t.Errorf("expires in %v", s.ExpiresIn)
	}
	d.idp.device = answerDevice(d.idp.URL, set("interval", nil))
	if s := d.begin(t); s.Interval.Duration() != deviceInterval {
		t.Errorf("interval %v", s.Interval)
	}
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
