// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/peers"
)

// Whoever is turned away is named in the log with a reason, counted by it, and an event. (That each bad client gets its
// reason, and leaves nothing, package proxy tests.)
func TestRefusalsAreLoggedAndCounted(t *testing.T) {
	e := startEcho(t)
	addr, closed := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t)), fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	r := &rig{echo: e, addr: addr, Agent: harness.Start(t, harness.Config{
		Services: service("echo", addr, e.addr, "") + service("broken", closed, fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t)), ""),
		Extra:    "limits: {handshake_timeout: 1s}",
	})}
	_, killed := r.CreateSession(t, "alice", time.Hour)
	r.MustCurfew(t, "kill", "--subject", "alice")
	_, expired := r.CreateSession(t, "bob", 1500*time.Millisecond)
	mustEnd(t, mustConnect(t, addr, expired))
	_, live := r.CreateSession(t, "carol", time.Hour)
	ca := newAuthority(t)
	ca.issue(t, "stranger")
	stranger := harness.Credentials{Cert: ca.file("stranger.pem"), Key: ca.file("stranger.key"), CA: live.CA}
	for _, tc := range []struct {
		service, addr string
		reason        session.Reason
		come          func(t *testing.T, addr string)
	}{
		{"echo", addr, session.ReasonHandshake, speak("GET / HTTP/1.0\r\n\r\n")},
		{"echo", addr, session.ReasonHandshakeTime, speak("\x16\x03\x01\x02\x00\x01")},
		{"echo", addr, session.ReasonUnknownKey, knock(stranger)},
		{"echo", addr, session.ReasonKilled, knock(killed)},
		{"echo", addr, session.ReasonAbsolute, knock(expired)},
		{"broken", closed, session.ReasonUpstreamRefused, knock(live)},
	} {
		tc.come(t, tc.addr)
		logged := regexp.MustCompile(fmt.Sprintf(`level=WARN msg="connection refused".* service=%s source=127\.0\.0\.1:\d+ reason=%s `, tc.service, tc.reason))
		counted := fmt.Sprintf("curfew_refused_total{reason=%q,service=%q} 1\n", tc.reason, tc.service)
		harness.Eventually(t, string(tc.reason)+" to be told", func() error {
			if !logged.MatchString(r.Log()) {
				return fmt.Errorf("the log does not say so:\n%s", r.Log())
			}
			if text := r.metrics(t); !strings.Contains(text, counted) {
				return fmt.Errorf("it is not counted as %s", counted)
			}
			if got := r.MustCurfew(t, "events").Stdout; !strings.Contains(got, "reason="+string(tc.reason)) {
				return fmt.Errorf("it is no event:\n%s", got)
			}
			return nil
		})
	}
}

// speak sends something that is not TLS, and waits until it is hung up on.
func speak(text string) func(*testing.T, string) {
	return func(t *testing.T, addr string) {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		mustClose(t, c)
	}
}

func knock(creds harness.Credentials) func(*testing.T, string) {
	return func(t *testing.T, addr string) {
		t.Helper()
		mustRefuse(t, addr, creds)
	}
}
