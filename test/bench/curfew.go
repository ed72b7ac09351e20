// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/control"
	"github.com/curfew-proxy/curfew/agent/session"
)

// startWith returns what starts the real agent, both processes, every connection registered with a
// session that has an absolute and an idle timeout. Both processes are counted.
func startWith(enforcement string) func(context.Context, setup) (*target, error) {
	return func(ctx context.Context, s setup) (*target, error) { return startCurfew(ctx, s, enforcement) }
}

func startCurfew(ctx context.Context, s setup, enforcement string) (*target, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	gateway, err := freeAddr()
	if err != nil {
		return nil, err
	}
	binary, err := buildCurfew(ctx, s.dir)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "curfew.yaml")
	config := fmt.Sprintf(`name: curfew-bench
listen: [%q]
url: https://%s
tls: {certificate: %s, key: %s}
state: %s/state
run: %s/run
user: nobody
enforcement: %s
sessions: {connections: 16000}
limits: {unauthenticated: 1024, unauthenticated_per_source: 1024, drain_timeout: 1s}
services:
  - {name: bench, listen: [%q], upstream: %q, allow: 'true'}
`, gateway, gateway, s.pki.serverCert, s.pki.serverKey, s.dir, s.dir, enforcement, addr, s.upstream)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(filepath.Join(s.dir, "state")); err != nil { // of the round before
		return nil, err
	}
	t, err := launch(addr, exec.CommandContext(ctx, binary, "agent", "--config", file, "--log-format", "text", "--log-level", "error"))
	if err != nil {
		return nil, err
	}
	if err := signIn(ctx, filepath.Join(s.dir, "run", "control.sock"), s.pki); err != nil {
		t.stop()
		return nil, err
	}
	return t, nil
}

// buildCurfew builds the program once a run.
func buildCurfew(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "curfew")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "github.com/curfew-proxy/curfew/cmd/curfew")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
}

// signIn makes a session for the key that all subjects' clients use.
func signIn(ctx context.Context, socket string, p *pki) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	pair := p.clientConfig().Certificates[0]
	leaf, err := leafOf(pair)
	if err != nil {
		return err
	}
	c := control.NewClient(socket)
	req := api.CreateSessionRequest{Subject: "bench", TTL: api.Seconds(time.Hour), Idle: api.Seconds(30 * time.Minute), Key: leaf}
	for {
		_, err := c.CreateSession(ctx, req)
		if err == nil || !strings.Contains(err.Error(), socket) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func leafOf(pair tls.Certificate) (session.Key, error) {
	if pair.Leaf == nil {
		return session.Key{}, fmt.Errorf("the client's certificate is not parsed")
	}
	return session.KeyOf(pair.Leaf), nil
}
