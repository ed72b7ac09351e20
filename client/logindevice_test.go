// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// deviceAgent answers polls one after the other, and the last for ever.
func deviceAgent(t *testing.T, expires time.Duration, polls ...http.HandlerFunc) *Agent {
	t.Helper()
	var n atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathLoginDevice, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusCreated, api.DeviceStarted{Provider: "corp", UserCode: "ABCD-EFGH\x1b[31m", VerificationURI: "https://idp.example/enter",
			ExpiresIn: api.Seconds(expires), Login: "handle"})
	})
	mux.HandleFunc("POST "+api.PathDevicePoll, func(w http.ResponseWriter, r *http.Request) {
		polls[min(int(n.Add(1)), len(polls))-1](w, r)
	})
	server := httptest.NewUnstartedServer(mux)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	addr, err := ParseAddress(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fp := FingerprintOf(server.Certificate())
	agent, err := Connect(t.Context(), Config{Home: t.TempDir(), Agent: addr, Fingerprint: &fp})
	if err != nil {
		t.Fatal(err)
	}
	return agent
}

func pendingWith(problem string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusAccepted, api.DevicePending{Interval: api.Seconds(time.Millisecond), Problem: problem})
	}
}

func TestLoginDevice(t *testing.T) {
	const silent = "the provider does not answer"
	var key session.Key
	agent := deviceAgent(t, time.Minute, pendingWith(""), pendingWith(silent), pendingWith(silent),
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, // the agent restarts
		pendingWith(""), func(w http.ResponseWriter, r *http.Request) {
			key = session.KeyOf(r.TLS.PeerCertificates[0])
			answer(w, http.StatusCreated, api.Session{ID: session.NewID(), State: api.StateLive, Left: api.Seconds(time.Hour)})
		})
	var out bytes.Buffer
	sess, err := LoginDevice(t.Context(), LoginConfig{Agent: agent, Progress: &out})
	if err != nil || sess.State != api.StateLive {
		t.Fatalf("%+v, %v", sess, err)
	}
	for _, want := range []string{"https://idp.example/enter", "ABCD-EFGH", "only if you yourself have just run curfew login", "Still waiting: the agent at"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
	if strings.Count(out.String(), silent) != 1 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("the user reads\n%s", &out)
	}
	cert, err := agent.Store.LoadKey()
	if err != nil || session.KeyOf(cert.Leaf) != key {
		t.Errorf("the stored key is not that of the sign-in: %v", err)
	}
}

func TestLoginDeviceEnds(t *testing.T) {
	refuse := func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusForbidden, api.Error{Code: api.CodeProviderFailed, Message: "the sign-in was declined at the provider", Hint: "hint"})
	}
	interrupted, interrupt := context.WithCancel(t.Context())
	for _, tc := range []struct {
		name    string
		ctx     context.Context
		expires time.Duration
		poll    http.HandlerFunc
		code    string // of an api.Error; empty: that of ctx
	}{
		{"declined", t.Context(), time.Minute, refuse, api.CodeProviderFailed},
		{"too late", t.Context(), 300 * time.Millisecond, pendingWith(""), api.CodeLoginInvalid},
		{"interrupted", interrupted, time.Minute, func(w http.ResponseWriter, r *http.Request) { interrupt(); pendingWith("")(w, r) }, ""},
	} {
		agent := deviceAgent(t, tc.expires, tc.poll)
		_, err := LoginDevice(tc.ctx, LoginConfig{Agent: agent, Progress: new(bytes.Buffer)})
		var e *api.Error
		if tc.code == "" && !errors.Is(err, context.Canceled) || tc.code != "" && (!errors.As(err, &e) || e.Code != tc.code || e.Hint == "") {
			t.Errorf("%s: %v", tc.name, err)
		}
		if _, err := agent.Store.LoadKey(); err == nil {
			t.Errorf("%s: a key was stored", tc.name)
		}
	}
}
