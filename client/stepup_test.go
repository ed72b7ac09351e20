// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
)

// A tunnel to a service that asks for another sign-in says how to get it, also when that comes up later.
func TestTunnelNeedsStepUp(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	agent := signedIn(t, a)
	tunnel, err := OpenTunnel(t.Context(), agent, "db", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	a.missing = "you were authenticated 20m0s ago, more than 15m0s"
	a.serve = func(c *tls.Conn) { _ = c.NetConn().Close() } // refuses
	a.mu.Unlock()
	_, opening := OpenTunnel(t.Context(), agent, "db", io.Discard)
	for name, err := range map[string]error{
		"open": opening, "use": tunnel.Stdio(t.Context(), strings.NewReader("x"), new(bytes.Buffer)),
	} {
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeStepUp || !strings.Contains(e.Hint, "curfew login --service db") || !strings.Contains(err.Error(), "20m0s ago") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenTunnel(t.Context(), agent, "cache", io.Discard); err != nil {
		t.Errorf("another service: %v", err)
	}
}
