// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestLoopback visits the listener as browsers and others might.
func TestLoopback(t *testing.T) {
	lb, err := listenLoopback()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lb.close)
	codes := make(chan string, 1)
	done := make(chan error, 1)
	go func() {
		done <- lb.wait(t.Context(), func(code string) error { codes <- code; return nil })
	}()
	right := url.Values{"code": {"c"}, "state": {lb.state}}.Encode()
	for name, tc := range map[string]struct {
		method, path, host string
		status             int
	}{
		"wrong state":    {"GET", "/signed-in?code=c&state=x", "", 400},
		"no state":       {"GET", "/signed-in?code=c", "", 400},
		"another path":   {"GET", "/favicon.ico", "", 404},
		"another method": {"POST", "/signed-in?" + right, "", 404},
		"another name":   {"GET", "/signed-in?" + right, "evil.example", 404},
	} {
		if status, _ := visit(t, lb, tc.method, tc.path, tc.host); status != tc.status {
			t.Errorf("%s: %d, want %d", name, status, tc.status)
		}
	}
	if status, body := visit(t, lb, "GET", "/signed-in?"+right, ""); status != 200 || !strings.Contains(body, "You are signed in") {
		t.Errorf("the right visit: %d %s", status, body)
	}
	if err := <-done; err != nil || <-codes != "c" {
		t.Errorf("wait = %v", err)
	}
}

func visit(t *testing.T, lb *loopback, method, path, host string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+lb.listener.Addr().String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestLoopbackShowsWhatWentWrong(t *testing.T) {
	lb, err := listenLoopback()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lb.close)
	done := make(chan error, 1)
	go func() { done <- lb.wait(t.Context(), func(string) error { return errors.New("not called") }) }()
	q := url.Values{"error": {"x"}, "error_description": {"no <b>entry</b>\x1b[31m"}, "state": {lb.state}}
	if status, body := visit(t, lb, "GET", "/signed-in?"+q.Encode(), ""); status != 403 || strings.Contains(body, "<b>") || !strings.Contains(body, "entry") {
		t.Errorf("page: %d %s", status, body)
	}
	if err := <-done; err == nil || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), "entry") {
		t.Errorf("wait = %v", err)
	}
}

func TestLoopbackGivesUp(t *testing.T) {
	lb, err := listenLoopback()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lb.close)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := lb.wait(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("wait = %v", err)
	}
}
