// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"path/filepath"
	"time"

	"github.com/curfew-proxy/curfew/agent/demoidp"
	"github.com/curfew-proxy/curfew/agent/servercert"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
	"github.com/curfew-proxy/curfew/client"
)

// name is the demo's instance, user and service.
const (
	instance = "curfew-demo"
	user     = "alice"
	service  = "stream"
)

// stage is what the demo plays on: a provider, a stream service, and a real agent in front of it.
type stage struct {
	gateway  string // host:port
	service  string // host:port
	upstream *upstream
	idp      *demoidp.Provider
	*agent
}

// build makes everything but the agent.
func build(sessionTime time.Duration) (_ *stage, err error) {
	s := &stage{}
	dir, err := newDir()
	if err != nil {
		return nil, err
	}
	s.agent = newAgent(dir)
	if s.upstream, err = newUpstream(nil, "127.0.0.1"); err != nil {
		return nil, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	s.gateway, s.service = ports[0], ports[1]
	s.idp, err = demoidp.Listen(demoidp.Config{
		ClientID: "curfew", ClientSecret: "demo", RedirectURL: "https://" + s.gateway + "/callback/demo",
		Users: []demoidp.User{{Name: user, Full: "Alice", Email: "alice@example.com", Groups: []string{"demo"}}},
	})
	if err != nil {
		return nil, err
	}
	return s, s.configure(sessionTime)
}

// freePorts returns addresses of loopback that were free a moment ago.
func freePorts(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end: no port twice
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

func (s *stage) configure(sessionTime time.Duration) error {
	config := fmt.Sprintf(`name: %s
listen: [%q]
url: https://%s
state: %s
run: %s
user: nobody
sessions: {absolute_timeout: %s}
providers:
  - {name: demo, issuer: %q, client_id: curfew, client_secret_file: %s}
services:
  - {name: %s, listen: [%q], upstream: %q, allow: '"demo" in identity.groups'}
`, instance, s.gateway, s.gateway, s.path("state"), s.path("run"), sessionTime, s.idp.Issuer(), s.path("secret"), service, s.service, s.upstream.addr())
	return errors.Join(os.WriteFile(s.path("secret"), []byte("demo"), 0o600), s.agent.configure(config))
}

// start starts the agent and waits until it serves and has reached the provider.
func (s *stage) start(ctx context.Context) error { return s.agent.start(ctx, nil) }

// tearDown ends the agent in order and removes everything.
func (s *stage) tearDown() error {
	return errors.Join(s.agent.stop(), os.RemoveAll(s.dir))
}

// signIn does what a user with a browser does, through the real client, and returns its key.
func (s *stage) signIn(ctx context.Context) (session.ID, *tls.Config, error) {
	address, err := client.ParseAddress(s.gateway)
	if err != nil {
		return session.ID{}, nil, err
	}
	agent, err := client.Connect(ctx, client.Config{Home: s.path("home"), Agent: address, Confirm: func(client.Fingerprint) (bool, error) { return true, nil }})
	if err != nil {
		return session.ID{}, nil, err
	}
	browser, roots, err := s.browser()
	if err != nil {
		return session.ID{}, nil, err
	}
	made, err := client.Login(ctx, client.LoginConfig{Agent: agent, Progress: discard{}, OpenBrowser: func(page string) error {
		go func() { _ = s.idp.SignIn(ctx, browser, page, user) }() // Login says if it does not come to an end
		return nil
	}})
	if err != nil {
		return session.ID{}, nil, err
	}
	key, err := agent.Store.LoadKey()
	return made.ID, &tls.Config{Certificates: []tls.Certificate{key}, RootCAs: roots, MinVersion: tls.VersionTLS13}, err
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// browser keeps cookies and trusts the agent's certificate.
func (s *stage) browser() (*http.Client, *x509.CertPool, error) {
	pem, err := os.ReadFile(filepath.Join(s.path("state"), servercert.CertFile))
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, nil, errors.New("the agent's certificate cannot be read")
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, nil, err
	}
	return &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}, roots, nil
}

// deadline reads the session's deadline from where it is enforced: the kernel's map.
func (s *stage) deadline(id session.ID) (session.Instant, error) {
	pinned, err := bpf.OpenPinned(instance)
	if err != nil {
		return 0, err
	}
	defer func() { _ = pinned.Close() }() // descriptors only
	sessions, err := pinned.Sessions()
	if err != nil {
		return 0, err
	}
	for _, known := range sessions {
		if known.Label.Session == id {
			return known.Deadline, nil
		}
	}
	return 0, fmt.Errorf("session %s is not in the kernel's map", id.Short())
}
