// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/client"
	"github.com/curfew-proxy/curfew/test/oidc"
)

var (
	shownAddress = regexp.MustCompile(`(?s)on any device:\s+(\S+)`)
	shownCode    = regexp.MustCompile(`enter the code\s+(\S+)`)
)

// signInByCode signs in with the real client, while a user enters the code on another device, which knows nothing of the
// agent. An empty user declines.
func signInByCode(t *testing.T, a *agent, user string) (api.Session, error) {
	t.Helper()
	shown, out := io.Pipe()
	t.Cleanup(func() { _ = shown.Close() })
	type result struct {
		sess api.Session
		err  error
	}
	done := make(chan result, 1)
	how := client.LoginConfig{Agent: a.connect(t), Progress: out}
	go func() {
		sess, err := client.LoginDevice(t.Context(), how)
		_ = out.Close()
		done <- result{sess, err}
	}()
	text, entered := "", false
	for buf := make([]byte, 4096); ; {
		n, err := shown.Read(buf)
		if err != nil {
			break
		}
		text += string(buf[:n])
		address, code := shownAddress.FindStringSubmatch(text), shownCode.FindStringSubmatch(text)
		if entered || address == nil || code == nil {
			continue
		}
		entered = true
		b := oidc.NewBrowser(user, nil)
		b.Code = code[1]
		page, err := b.Walk(t.Context(), address[1], nil)
		if err != nil || user != "" && !strings.Contains(page.Body, "Sign-in Success") {
			t.Errorf("the browser ends at %v: %d %s, %v", page.URL, page.Status, page.Body, err)
		}
	}
	r := <-done
	return r.sess, r.err
}

func TestDeviceWithTheRealProvider(t *testing.T) {
	a, p := withProvider(t)
	t.Run("signed in", func(t *testing.T) {
		sess, err := signInByCode(t, a, "alice")
		if err != nil || sess.Method != "device" || sess.Identity.Subject != "alice" || sess.Identity.Issuer != p.Issuer || !sess.Identity.HasGroup("dba") {
			t.Fatalf("%+v, %v", sess, err)
		}
		signOut(t, a, p, a.connect(t))
	})
	t.Run("declined", func(t *testing.T) {
		sessions := a.table.count()
		_, err := signInByCode(t, a, "")
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeProviderFailed || !strings.Contains(e.Message, "declined") || a.table.count() != sessions {
			t.Errorf("declined: %v", err)
		}
		if a.counted(identity.EventProviderRefused) != 1 {
			t.Errorf("counted %v", a.counts)
		}
	})
}

// TestDeviceCodeOfTheRealProviderExpires: nobody enters the code, and the user is told so when the provider's time is up.
func TestDeviceCodeOfTheRealProviderExpires(t *testing.T) {
	a := listen(t)
	p := oidc.Start(t, oidc.Options{TTL: map[string]int{"DeviceCode": 2},
		Clients: []oidc.Client{oidc.WebClient(clientID, clientSecret, a.callbackURL("corp")).WithDevice()}})
	a.serve(t, a.config("corp", p.Issuer))
	a.waitReady(t, "corp")
	began := time.Now()
	_, err := client.LoginDevice(t.Context(), client.LoginConfig{Agent: a.connect(t), Progress: io.Discard})
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeLoginInvalid || !strings.Contains(e.Message, "nobody entered the code in time") || !strings.Contains(e.Hint, "--device") {
		t.Errorf("login: %v", err)
	}
	if waited := time.Since(began); waited < 2*time.Second {
		t.Errorf("it gave up after %v", waited)
	}
}
