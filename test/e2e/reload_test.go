// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/peers"
)

// A reload takes over all or nothing: what can fail only when everything else was found right, an address that somebody else
// has, leaves the certificate, the policy and the tokens as they were.
func TestReloadTakesAllOrNothing(t *testing.T) {
	ca, token := newAuthority(t), filepath.Join(t.TempDir(), "token")
	old, fresh := strings.Repeat("o1d-", 10), strings.Repeat("n3w-", 10)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	extra := func(certificate string) string {
		ca.issue(t, certificate)
		return fmt.Sprintf("tls: {certificate: %s, key: %s}\nwebhooks: [{name: siem, token_file: %s}]\n",
			ca.file(certificate+".pem"), ca.file(certificate+".key"), token)
	}
	write(old)
	e, addr := startEcho(t), fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	r := &rig{echo: e, addr: addr, Agent: harness.Start(t, harness.Config{Services: service("echo", addr, e.addr, ""), Extra: extra("before.example")})}
	_, creds := r.CreateSession(t, "alice", time.Hour)
	conn := mustConnect(t, addr, creds)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	denied := strings.Replace(service("echo", addr, e.addr, ""), "'true'", "'false'", 1)
	r.Configure(t, harness.Config{Services: denied + service("more", taken.Addr().String(), e.addr, ""), Extra: extra("after.example")})
	write(fresh)
	harness.Signal(t, r.EnforcerPID(), syscall.SIGHUP)
	harness.Eventually(t, "the reload to be refused", func() error {
		if !strings.Contains(r.Log(), "configuration not reloaded") {
			return fmt.Errorf("the log does not say so")
		}
		return nil
	})
	kill := func(token string) int {
		code, _ := tell(t, r, "POST", "/v1/kill", "application/json", `{"subject":"nobody"}`, token)
		return code
	}
	if name := shown(t, r); name != "before.example" {
		t.Errorf("after a reload that was refused the certificate is that of %s", name)
	}
	if code := kill(old); code != http.StatusOK {
		t.Errorf("the token from before: %d", code)
	}
	if err := roundTrip(conn); err != nil {
		t.Errorf("a connection was cut: %v", err)
	}
	mustConnect(t, addr, creds)

	taken.Close()
	harness.Signal(t, r.EnforcerPID(), syscall.SIGHUP)
	mustEnd(t, conn)
	if name := shown(t, r); name != "after.example" {
		t.Errorf("after a reload the certificate is that of %s", name)
	}
	if code := kill(old); code != http.StatusUnauthorized {
		t.Errorf("the token from before, after a reload: %d", code)
	}
}

// shown is whose certificate the gateway shows.
func shown(t *testing.T, r *rig) string {
	t.Helper()
	conn, err := tls.Dial("tcp", r.Gateway, &tls.Config{InsecureSkipVerify: true}) // it is looked at below
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}
