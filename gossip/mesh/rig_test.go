// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// authority is a certificate authority for tests: it trusts what it issued and has not denied.
type authority struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey

	mu      sync.Mutex
	serial  int64
	denied  map[string]bool
	changed chan struct{}
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{denied: make(map[string]bool), changed: make(chan struct{})}
	a.cert, a.key = a.issue(t, "root", time.Now().Add(time.Hour), nil, nil)
	return a
}

func (a *authority) issue(t testing.TB, name string, until time.Time, parent *x509.Certificate, by ed25519.PrivateKey) (*x509.Certificate, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	a.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		IsCA: parent == nil, BasicConstraintsValid: true,
	}
	a.mu.Unlock()
	if parent == nil {
		parent, by = template, private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, private
}

func (a *authority) change(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *authority) deny(name string) { a.change(func() { a.denied[name] = true }) }

// member is the Trust of one node.
type member struct {
	*authority
	own *tls.Certificate // guarded by authority.mu
}

func (a *authority) member(t testing.TB, name string, life time.Duration) *member {
	t.Helper()
	m := &member{authority: a}
	m.renew(t, name, life)
	return m
}

func (m *member) renew(t testing.TB, name string, life time.Duration) {
	t.Helper()
	leaf, key := m.issue(t, name, time.Now().Add(life), m.cert, m.key)
	m.change(func() {
		m.own = &tls.Certificate{Certificate: [][]byte{leaf.Raw, m.cert.Raw}, PrivateKey: key, Leaf: leaf}
	})
}

func (m *member) Certificate() (*tls.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.own, nil
}

func (m *member) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *member) Verify(chain []*x509.Certificate) (string, error) {
	leaf := chain[0]
	if err := leaf.CheckSignatureFrom(m.cert); err != nil {
		return "", err
	}
	if time.Now().After(leaf.NotAfter) {
		return "", errors.New("expired")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.denied[leaf.Subject.CommonName] {
		return "", errors.New("denied")
	}
	return leaf.Subject.CommonName, nil
}

// tally counts events.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) count(event string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[event]++
}

func (c *tally) of(event string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[event]
}

// node is a Mesh that runs, and what it counted.
type node struct {
	*Mesh
	*tally
	stop func()
}

func (n *node) at() Peer { return Peer{Name: n.name, Addr: n.LocalAddr().String()} }

type option func(*Config)

func at(addr netip.AddrPort) option { return func(c *Config) { c.Listen = addr } }

func start(t testing.TB, trust *member, options ...option) *node {
	t.Helper()
	own, _ := trust.Certificate()
	n := &node{tally: &tally{n: make(map[string]int)}}
	cfg := Config{
		Name: own.Leaf.Subject.CommonName, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Trust: trust,
		Log: slog.New(slog.DiscardHandler), Count: n.tally.count,
	}
	copy(cfg.ResetKey[:], cfg.Name) // the same after a restart
	for _, o := range options {
		o(&cfg)
	}
	var err error
	if n.Mesh, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := n.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

// eventually polls until ok says yes.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
}

// link has a dial b and waits until both are up.
func connect(t testing.TB, a, b *node) {
	t.Helper()
	eventually(t, fmt.Sprintf("link %s to %s", a.name, b.name), func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		conn, err := a.Dial(ctx, b.at(), KindApplication)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return a.Up(b.name) && b.Up(a.name)
	})
	s := <-b.Streams()
	_ = s.Conn.Close()
}

// exchange sends from a to b until b has received that very packet.
func exchange(t testing.TB, a, b *node, data string) Packet {
	t.Helper()
	var got Packet
	eventually(t, fmt.Sprintf("packet %s to %s", a.name, b.name), func() bool {
		if err := a.Send(b.at(), KindApplication, []byte(data)); err != nil {
			t.Fatal(err)
		}
		for {
			select {
			case got = <-b.Packets():
				if string(got.Data) == data {
					return true
				}
			case <-time.After(20 * time.Millisecond):
				return false
			}
		}
	})
	return got
}

func (n *node) mustOwn() *tls.Certificate {
	cert, _ := n.trust.Certificate() // a member's cannot fail
	return cert
}

func (m *member) mustLeaf() *x509.Certificate {
	cert, _ := m.Certificate() // cannot fail
	return cert.Leaf
}

// insecure is the TLS side of one who trusts everybody.
func insecure(n *node) *tls.Config {
	conf := n.clientTLS(n.mustOwn())
	conf.VerifyConnection = nil
	return conf
}
