// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/peers"
)

// A reload that comes while a connection is on its way, allowed by the old policy and held up by a slow policy engine, is
// heeded by it: it is not let in on the old policy's word.
func TestReloadWhileAConnectionIsOnItsWay(t *testing.T) {
	asked, hold := make(chan struct{}, 8), make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-hold
		_, _ = io.WriteString(w, `{"result":true}`)
	}))
	t.Cleanup(engine.Close)
	t.Cleanup(release)
	e := startEcho(t)
	addr := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	services := service("echo", addr, e.addr, fmt.Sprintf(", opa: {url: '%s/v1/data/x', timeout: 9s}", engine.URL))
	agent := harness.Start(t, harness.Config{Services: services})
	_, creds := agent.CreateSession(t, "alice", time.Hour)

	result := make(chan error, 1)
	go func() {
		conn, err := dialTLS(t, addr, creds)
		if err == nil {
			err = roundTrip(conn)
		}
		result <- err
	}()
	<-asked
	agent.Configure(t, harness.Config{Services: strings.Replace(services, "'true'", "'false'", 1)})
	harness.Signal(t, agent.EnforcerPID(), syscall.SIGHUP)
	harness.Eventually(t, "the reload", func() error {
		if !strings.Contains(agent.Log(), "configuration reloaded") {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	release()
	if err := <-result; err == nil {
		t.Error("the connection is let in by a policy that is gone")
	}
	harness.Eventually(t, "the refusal to be logged", func() error {
		if !strings.Contains(agent.Log(), "connection refused") {
			return fmt.Errorf("not yet")
		}
		return nil
	})
}
