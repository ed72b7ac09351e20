// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/lab"
	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/oidc"
	"github.com/curfew-proxy/curfew/test/peers"
)

// clusterSite is a cluster with a provider on the host of the first node, at which alice has signed in.
type clusterSite struct {
	*harness.Cluster
	alice    *user
	creds    harness.Credentials // alice's
	provider *oidc.Provider
}

// newClusterSite has three nodes. more is YAML of their provider, extra of the agents, at the top level, where ISSUER stands for
// the provider.
func newClusterSite(t *testing.T, allow, more, extra string) *clusterSite {
	t.Helper()
	port, secret := peers.FreePort(t), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	issuer := fmt.Sprintf("http://127.0.0.1:%d", port)
	s := &clusterSite{Cluster: harness.StartCluster(t, harness.ClusterConfig{Nodes: 3, Allow: allow,
		Extra: fmt.Sprintf("providers:\n  - {name: corp, issuer: '%s', client_id: curfew, client_secret_file: %s%s}\n%s",
			issuer, secret, more, strings.ReplaceAll(extra, "ISSUER", issuer)),
		Before: func(host *lab.Host, addr string) { echoOn(t, host, addr) }})}
	first := s.Nodes[0]
	s.alice = &user{agent: first.Agent, host: first.Host, home: t.TempDir(), name: "alice"}
	s.alice.login(t) // the provider is down: they have met the agent, which is all
	at := "https://" + first.Gateway
	s.provider = oidc.Start(t, oidc.Options{Port: port, CA: s.alice.ca(t), On: first.Host.Do,
		Users:   map[string]oidc.Claims{"alice": {"name": "Alice", "groups": []string{"dba"}}},
		Clients: []oidc.Client{oidc.WebClient("curfew", "s3cret", at+"/callback/corp").WithBackChannel(at + "/backchannel-logout/corp")}})
	s.alice.mustLogin(t)
	store := filepath.Dir(s.alice.ca(t))
	s.creds = harness.Credentials{Cert: filepath.Join(store, "cert.pem"), Key: filepath.Join(store, "key.pem"), CA: filepath.Join(store, "ca.pem")}
	return s
}

// TestLogoutInACluster has a user sign in at one node, work through three, and sign out at the provider, which tells
// the first node: the streams through all of them are cut, and none lets the user in again.
func TestLogoutInACluster(t *testing.T) {
	c := newClusterSite(t, "true", "", "")
	type end struct {
		node string
		at   time.Time
	}
	ends := make(chan end, len(c.Nodes))
	for _, n := range c.Nodes {
		conn, err := ask(t, n, c.creds)
		if err != nil {
			t.Fatalf("%s: %v", n.Name, err)
		}
		go func() {
			_, _ = io.Copy(io.Discard, conn) // until it is cut
			ends <- end{n.Name, time.Now()}
		}()
	}
	began := time.Now()
	if err := c.alice.browser.SignOut(t.Context(), c.provider); err != nil {
		t.Fatal(err)
	}
	for range c.Nodes {
		select {
		case e := <-ends:
			late := e.at.Sub(began).Round(time.Millisecond)
			t.Logf("%s cut the stream %v after the browser asked to be signed out", e.node, late)
			if late > 5*time.Second { // the promise is a second: see TestLogoutAtTheProvider
				t.Errorf("%s took %v", e.node, late)
			}
		case <-time.After(harness.Patience):
			t.Fatal("a stream goes on")
		}
	}
	for _, n := range c.Nodes {
		if _, err := ask(t, n, c.creds); err == nil {
			t.Errorf("%s lets the user in again", n.Name)
		}
	}
}

// TestSignInThroughAnotherNode has the users of a cluster come to one address: the browser goes to another node than the
// command did, and each answers what is about the other's sign-in.
func TestSignInThroughAnotherNode(t *testing.T) {
	port, secret := peers.FreePort(t), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	var second string // the address of the second node, at which the browsers arrive
	c := harness.StartCluster(t, harness.ClusterConfig{Nodes: 2,
		Extra:  fmt.Sprintf("providers:\n  - {name: corp, issuer: 'http://127.0.0.1:%d', client_id: curfew, client_secret_file: %s}\n", port, secret),
		Before: func(host *lab.Host, addr string) { echoOn(t, host, addr); second = addr + ":8443" }})
	first := c.Nodes[0]
	b, err := os.ReadFile(first.ConfigPath())
	if err != nil {
		t.Fatal(err)
	}
	first.Stop(t)
	moved := strings.Replace(string(b), "url: https://"+first.Gateway, "url: https://"+second, 1)
	if err := os.WriteFile(first.ConfigPath(), []byte(moved), 0o600); err != nil || moved == string(b) {
		t.Fatal("the address is not in the configuration", err)
	}
	first.Args = nil
	first.Run(t)
	c.WaitWhole(t, c.Nodes...)
	oidc.Start(t, oidc.Options{Port: port, On: first.Host.Do, Users: map[string]oidc.Claims{"alice": {"name": "Alice"}},
		Clients: []oidc.Client{oidc.WebClient("curfew", "s3cret", "https://"+second+"/callback/corp")}})
	alice := &user{agent: first.Agent, host: first.Host, home: t.TempDir(), name: "alice"}
	alice.mustLogin(t)
	if alice.browser.Visited(second) == 0 || alice.browser.Visited(first.Gateway) != 0 {
		t.Errorf("the browser was at the second node %d times, at the first %d times", alice.browser.Visited(second), alice.browser.Visited(first.Gateway))
	}
}

// ask opens a stream through a node and waits for an answer.
func ask(t *testing.T, n *harness.Node, creds harness.Credentials) (*tls.Conn, error) {
	t.Helper()
	tcp, err := n.Host.Dial("", fmt.Sprintf("%s:%d", n.Addr, harness.ServicePort), harness.Patience)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = tcp.Close() })
	conn := tls.Client(tcp, creds.TLS(t, ""))
	if err := tcp.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte("ping")); err != nil {
		return nil, err
	}
	_, err = io.ReadFull(conn, make([]byte, 4))
	return conn, err
}

// echoOn is an upstream on a host.
func echoOn(t *testing.T, host *lab.Host, addr string) {
	t.Helper()
	l, err := host.Listen(fmt.Sprintf("%s:%d", addr, harness.UpstreamPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go serveEcho(l)
}

func serveEcho(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}()
	}
}
