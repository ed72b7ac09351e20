// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/metrics"
	"github.com/curfew-proxy/curfew/agent/session"
)

// The engine of a service is asked last, with the token in its file: who lacks what the service's own policy asks for is
// refused without it.
func TestSecondOpinionIsTheLast(t *testing.T) {
	var asked atomic.Int64
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := asked.Add(1)
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			t.Errorf("authorization %q", r.Header.Get("Authorization"))
		}
		_, _ = fmt.Fprintf(w, `{"decision_id":"d-%d","result":%t}`, n, n == 1)
	}))
	t.Cleanup(engine.Close)
	opa := &config.OPA{URL: engine.URL + "/v1/data/x", Timeout: 5 * time.Second, TokenFile: "token"}
	c := config.Default()
	c.Services = []config.Service{
		{Name: "none", Allow: "true"},
		{Name: "no", Allow: "false", OPA: opa},
		{Name: "more", Allow: "true", Require: config.Require{ACR: []string{"mfa"}}, OPA: opa},
		{Name: "yes", Allow: "true", OPA: opa},
	}
	b := &bundle{Config: c, Files: map[string][]byte{"token": []byte("s3cret\n")}}
	p := &proxyProcess{metrics: metrics.New("", metrics.Sources{Sessions: func() int { return 0 }, Enforcer: func() (a, b, c uint64) { return }})}
	p.bundle.Store(b)
	if err := errors.Join(p.takeNow(p.preparePolicy), p.takeNow(p.prepareEngines)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.engines.Load().CloseIdle() })
	for _, tc := range []struct {
		service, decision string
		reason            session.Reason
		asked             int64
	}{
		{"none", "", "", 0},
		{"no", "", session.ReasonDenied, 0},
		{"more", "", session.ReasonStepUp, 0},
		{"unknown", "", session.ReasonDenied, 0},
		{"yes", "d-1", "", 1},
		{"yes", "d-2", session.ReasonDenied, 2}, // cache: 0s
	} {
		decision, err := p.Authorize(session.Session{}, tc.service, netip.MustParseAddrPort("10.1.2.3:4"))
		if decision != tc.decision || (err == nil) != (tc.reason == "") || err != nil && session.ReasonOf(err) != tc.reason || asked.Load() != tc.asked {
			t.Errorf("%s: decision %q, error %v, asked %d times; want %+v", tc.service, decision, err, asked.Load(), tc)
		}
	}
	w := httptest.NewRecorder()
	p.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text, _ := io.ReadAll(w.Body)
	if !strings.Contains(string(text), `curfew_policy_engine_answers_total{result="denied",service="yes"} 1`) {
		t.Error("the no is not counted")
	}
}
