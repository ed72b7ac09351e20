// SPDX-License-Identifier: Apache-2.0

package gossip

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
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

var _ Carrier = (*mesh.Mesh)(nil)

// authority is a mesh.Trust that gives each node a certificate of its name.
type authority struct {
	root *x509.Certificate
	key  ed25519.PrivateKey
	own  *tls.Certificate
}

func (a authority) issue(t *testing.T, name string, serial int64) authority {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: a.root == nil, BasicConstraintsValid: true}
	parent, by := a.root, a.key
	if parent == nil {
		parent, by = cert, private
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if a.root == nil {
		return authority{root: leaf, key: private}
	}
	a.own = &tls.Certificate{Certificate: [][]byte{der, a.root.Raw}, PrivateKey: private, Leaf: leaf}
	return a
}

func (a authority) Certificate() (*tls.Certificate, error) { return a.own, nil }
func (a authority) Changed() <-chan struct{}               { return nil }
func (a authority) Verify(chain []*x509.Certificate) (string, error) {
	return chain[0].Subject.CommonName, chain[0].CheckSignatureFrom(a.root)
}

// startReal starts a node that is called name and has a certificate of the name proved.
func startReal(t *testing.T, a authority, serial int64, name, proved string, seeds ...string) *node {
	t.Helper()
	m, err := mesh.New(mesh.Config{Name: proved, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Trust: a.issue(t, proved, serial),
		ResetKey: [32]byte{1, byte(serial)}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{seen: map[string]bool{}, counts: map[string]int{}}
	n.Cluster, err = New(Config{Name: name, Advertise: m.LocalAddr(), Carrier: m, Handler: n, Seeds: seeds,
		Log: slog.New(slog.DiscardHandler), Count: n.count})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- m.Run(ctx) }()
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, <-done, n.Close(), m.Close()); err != nil {
			t.Error(err)
		}
	})
	return n
}

// Members get to know each other over real links although each dials the first alone: an empty packet, which
// the mesh refuses, was to make the others.
func TestOverMesh(t *testing.T) {
	ca := authority{}.issue(t, "root", 1)
	first := startReal(t, ca, 2, "node1", "node1")
	nodes := []*node{first}
	seed := first.cfg.Advertise.String()
	for i := range int64(4) {
		name := fmt.Sprint("node", i+2)
		nodes = append(nodes, startReal(t, ca, 3+i, name, name, seed))
	}
	began := time.Now()
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				for _, n := range nodes {
					t.Logf("%s sees %+v, %v", n.cfg.Name, n.Members(), n.counts)
				}
				t.Fatalf("%s: not in time", what)
			}
		}
	}
	wait("five members", func() bool {
		for _, n := range nodes {
			if len(n.alive()) != len(nodes) {
				return false
			}
		}
		return true
	})
	t.Logf("five members after %v", time.Since(began))
	if reply, err := nodes[1].Request(t.Context(), "node3", []byte("why")); err != nil || string(reply) != "node2 asked node3 why" {
		t.Errorf("%q, %v", reply, err)
	}
	if err := nodes[2].Broadcast("key", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	wait("a broadcast", func() bool {
		for _, n := range nodes {
			if n != nodes[2] && !n.has("hello") {
				return false
			}
		}
		return true
	})
	startReal(t, ca, 100, "phantom", "node9", seed)
	wait("a phantom is announced", func() bool {
		first.Cluster.mu.Lock()
		defer first.Cluster.mu.Unlock()
		return first.unproved["phantom"].addr != ""
	})
	for _, n := range nodes {
		if s := n.state("phantom"); s != "" {
			t.Errorf("%s has a phantom that is %s", n.cfg.Name, s)
		}
	}
}
