// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package opa runs the real Open Policy Agent for tests, with a certificate, a token and its decision log.
package opa

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/peers"
)

// Token is what the server wants to see.
const Token = "s3cret-of-the-engine"

// guard is the policy of the server itself: who has no token is told nothing.
const guard = "package system.authz\n\ndefault allow := false\n\nallow if input.identity == \"" + Token + "\"\n"

// Server is a running Open Policy Agent.
type Server struct {
	URL string // of the root of its data
	CA  string // file of its certificate

	dir  string
	proc *peers.Process
}

// Binary builds the server at the version that server/go.mod pins, once for as long as that and Go stay the same, and
// returns its path. It takes minutes the first time, and is kept in the user's cache directory.
func Binary(t testing.TB) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	module := filepath.Join(filepath.Dir(file), "server")
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			t.Fatal(err)
		}
		sum.Write(content)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "curfew-test", fmt.Sprintf("opa-%x", sum.Sum(nil)[:8]))
	if _, err := os.Stat(path); err == nil {
		return path
	}
	// To another name first: whoever comes by sees the whole of it or nothing.
	made := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer os.Remove(made)
	began := time.Now()
	build := exec.Command("go", "build", "-trimpath", "-tags", "opa_no_oci", "-o", made, "github.com/open-policy-agent/opa")
	build.Dir = module
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the policy engine: %v\n%s", err, out)
	}
	t.Logf("built the policy engine in %v", time.Since(began))
	old, _ := filepath.Glob(filepath.Join(cache, "curfew-test", "opa-*")) // the pattern is right
	for _, o := range old {
		if o != made {
			_ = os.Remove(o)
		}
	}
	if err := os.Rename(made, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Start runs a server with a policy in Rego until the test ends, or Stop.
func Start(t testing.TB, policy string) *Server {
	t.Helper()
	s := &Server{dir: t.TempDir()}
	s.CA = filepath.Join(s.dir, "cert.pem")
	key := filepath.Join(s.dir, "key.pem")
	certificate(t, s.CA, key)
	rego := filepath.Join(s.dir, "rego")
	if err := os.Mkdir(rego, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rego, "guard.rego"), []byte(guard), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Policy(t, policy)
	addr := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	s.URL = "https://" + addr + "/v1/data"
	s.proc = peers.Start(t, exec.Command(Binary(t), "run", "--server", "--addr", addr, "--skip-version-check", "--watch",
		"--tls-cert-file", s.CA, "--tls-private-key-file", key, "--authentication", "token", "--authorization", "basic",
		"--set", "decision_logs.console=true", rego))
	s.proc.WaitDial(t, addr)
	return s
}

// Policy replaces the policy; the server notices by itself, soon.
func (s *Server) Policy(t testing.TB, policy string) {
	t.Helper()
	next := filepath.Join(s.dir, "next")
	if err := os.WriteFile(next, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(s.dir, "rego", "policy.rego")); err != nil {
		t.Fatal(err)
	}
}

// Log is what the server has said, with its decisions.
func (s *Server) Log() string { return s.proc.Output() }

// Stop kills the server.
func (s *Server) Stop() {
	_ = s.proc.Process.Kill() // it may have exited
	<-s.proc.Exited()
}

// certificate makes one for 127.0.0.1 that signs itself.
func certificate(t testing.TB, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		var b bytes.Buffer
		_ = pem.Encode(&b, block) // to memory
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
