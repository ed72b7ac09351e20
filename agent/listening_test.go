// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/signals"
)

// What is fetched is what the last configuration says, and nothing is begun anew where nothing has changed.
func TestListening(t *testing.T) {
	var before, after atomic.Int64
	polled := func(n *atomic.Int64) string {
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or it would not be seen that who asks has gone
			n.Add(1)
			<-r.Context().Done()
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	config := func(url string) signals.Config {
		return signals.Config{Log: slog.New(slog.DiscardHandler), Transmitters: []signals.Transmitter{{
			Name: "idp", Issuer: "https://idp.example", Audience: "us", JWKSURI: url + "/keys", PollURL: url, Access: signals.Access{Token: strings.Repeat("t", 40)}}}}
	}
	l := &listening{fresh: make(chan struct{}, 1)}
	take := func(c signals.Config) *heard {
		t.Helper()
		next, err := l.prepare(c)
		if err != nil {
			t.Fatal(err)
		}
		l.set(next)
		return next
	}
	first, second := config(polled(&before)), config(polled(&after))
	take(first)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	defer stop()
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("never: " + what)
			}
		}
	}
	wait("the first is polled", func() bool { return before.Load() == 1 })
	if take(first) != nil {
		t.Error("the same is begun anew")
	}
	take(second)
	wait("the second is polled", func() bool { return after.Load() == 1 })
	if before.Load() != 1 {
		t.Errorf("the first was polled %d times", before.Load())
	}
	bad := config("https://idp.example")
	bad.Transmitters[0].Issuer = ""
	if next, err := l.prepare(bad); err == nil || next != nil {
		t.Error("a configuration of no use is taken")
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
