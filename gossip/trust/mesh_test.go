// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/gossip/mesh"
	"github.com/curfew-proxy/curfew/gossip/trust"
)

const kindDocument = 9

// node is a Trust and a Mesh, put together as an agent does it: changes of the document go to everybody.
type node struct {
	t     *testing.T
	trust *trust.Trust
	mesh  *mesh.Mesh
	addr  string
	dirty chan struct{}
	stop  func()

	mu    sync.Mutex
	peers map[string]string // name to address
}

func open(t *testing.T, life time.Duration) *node {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dirty: make(chan struct{}, 1), peers: make(map[string]string)}
	tr, err := trust.Open(dir, trust.Config{
		Log: slog.New(slog.DiscardHandler), Lifetime: life, Grace: 20 * time.Second, Haste: 4 * time.Second,
		OnChange: func() {
			select {
			case n.dirty <- struct{}{}:
			default:
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.trust = tr
	return n
}

// run starts a node that is of a cluster.
func (n *node) run() {
	n.t.Helper()
	key, err := n.trust.ResetKey()
	if err != nil {
		n.t.Fatal(err)
	}
	n.mesh, err = mesh.New(mesh.Config{
		Name: n.trust.Name(), Listen: netip.MustParseAddrPort("127.0.0.1:0"), Trust: n.trust, ResetKey: key,
		Join: func(ctx context.Context, conn *mesh.JoinConn) {
			_, _ = n.trust.Admit(ctx, conn) // the joiner is told
		},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.addr = n.mesh.LocalAddr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = n.mesh.Run(ctx) })  // both return nil
	group.Go(func() { _ = n.trust.Run(ctx) }) // as above
	group.Go(n.serve)
	group.Go(func() { n.pass(ctx) })
	n.stop = sync.OnceFunc(func() { cancel(); group.Wait() })
	n.t.Cleanup(n.stop)
}

func (n *node) serve() {
	for s := range n.mesh.Streams() {
		go func() {
			defer s.Conn.Close()
			if s.Kind != kindDocument {
				_, _ = io.Copy(s.Conn, s.Conn) // the other end sees what is missing
				return
			}
			if data, err := io.ReadAll(s.Conn); err == nil {
				_, _ = n.trust.Merge(data) // what is wrong with it shows in the end
			}
		}()
	}
}

// pass sends the document to everybody when it changed, and now and then.
func (n *node) pass(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.dirty:
		case <-time.After(500 * time.Millisecond):
		}
		data, err := n.trust.Document()
		if err != nil {
			continue
		}
		n.mu.Lock()
		for name, addr := range n.peers {
			go n.post(ctx, mesh.Peer{Name: name, Addr: addr}, data)
		}
		n.mu.Unlock()
	}
}

func (n *node) post(ctx context.Context, to mesh.Peer, data []byte) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := n.mesh.Dial(ctx, to, kindDocument)
	if err != nil {
		return // again in half a second
	}
	_, _ = conn.Write(data) // as above
	_ = conn.Close()        // as above
}

func (n *node) knows(others ...*node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, o := range others {
		n.peers[o.trust.Name()] = o.addr
	}
}

func dialJoin(ctx context.Context, addr string, verify func([]*x509.Certificate) error) (trust.Conn, error) {
	conn, err := mesh.DialJoin(ctx, addr, verify)
	if err != nil {
		return nil, err // not a Conn that is a nil *JoinConn
	}
	return conn, nil
}

func cluster(t *testing.T, life time.Duration, names ...string) []*node {
	t.Helper()
	first := open(t, life)
	if err := first.trust.Bootstrap(names[0]); err != nil {
		t.Fatal(err)
	}
	first.run()
	nodes := []*node{first}
	for _, name := range names[1:] {
		k, err := first.trust.NewToken([]string{first.addr}, trust.TokenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := trust.ParseToken(k.Text())
		if err != nil {
			t.Fatal(err)
		}
		n := open(t, life)
		if _, err := n.trust.Join(t.Context(), parsed, name, dialJoin); err != nil {
			t.Fatal(err)
		}
		n.run()
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		for _, o := range nodes {
			if n != o {
				n.knows(o)
			}
		}
	}
	return nodes
}

func eventually(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for time.Since(begin) < 30*time.Second {
		if ok() {
			return time.Since(begin)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not in time: %s", what)
	return 0
}

func (n *node) ask(to *node) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	conn, err := n.mesh.Dial(ctx, mesh.Peer{Name: to.trust.Name(), Addr: to.addr}, mesh.KindApplication)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline) // fails on a closed stream only
	question := []byte("are you there")
	if _, err := conn.Write(question); err != nil {
		return err
	}
	answer := make([]byte, len(question))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if !slices.Equal(question, answer) {
		return errors.New("another answer")
	}
	return nil
}

// load has nodes ask each other in turn until stop is called, which returns how many asked in vain.
func load(t *testing.T, nodes ...*node) (stop func() (lost, sent int64)) {
	var sent, lost atomic.Int64
	done := make(chan struct{})
	var group sync.WaitGroup
	for i, from := range nodes {
		to := nodes[(i+1)%len(nodes)]
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(5 * time.Millisecond):
				}
				sent.Add(1)
				if err := from.ask(to); err != nil {
					lost.Add(1)
					t.Logf("%s to %s: %v", from.trust.Name(), to.trust.Name(), err)
				}
			}
		})
	}
	return func() (int64, int64) {
		close(done)
		group.Wait()
		return lost.Load(), sent.Load()
	}
}

func allUp(nodes []*node) func() bool {
	return func() bool {
		for i, n := range nodes {
			if n.ask(nodes[(i+1)%len(nodes)]) != nil {
				return false
			}
		}
		return true
	}
}

func TestRotationUnderLoad(t *testing.T) {
	nodes := cluster(t, 0, "a", "b", "c")
	eventually(t, "all talk", allUp(nodes))
	stop := load(t, nodes...)
	for round := range 2 {
		if err := nodes[round].trust.RotateCA(); err != nil {
			t.Fatal(err)
		}
		took := eventually(t, "rotation", func() bool {
			return !slices.ContainsFunc(nodes, func(n *node) bool { return n.trust.Rotating() })
		})
		t.Logf("rotation %d took %v", round, took)
	}
	lost, sent := stop()
	t.Logf("%d asked, %d in vain, over two rotations", sent, lost)
	if lost > 0 || sent == 0 {
		t.Errorf("%d of %d lost", lost, sent)
	}
}

func TestRenewalUnderLoad(t *testing.T) {
	nodes := cluster(t, 4*time.Second, "a", "b")
	eventually(t, "all talk", allUp(nodes))
	first, err := nodes[0].trust.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	stop := load(t, nodes...)
	renewals, last := 0, first
	eventually(t, "three renewals", func() bool {
		if own, err := nodes[0].trust.Certificate(); err == nil && own != last {
			last = own
			renewals++
		}
		return renewals == 3 && time.Now().After(first.Leaf.NotAfter)
	})
	lost, sent := stop()
	t.Logf("%d asked, %d in vain, over %d renewals of certificates that live for 4 s", sent, lost, renewals)
	if lost > 0 || sent == 0 {
		t.Errorf("%d of %d lost", lost, sent)
	}
}

func TestRemovalUnderLoad(t *testing.T) {
	nodes := cluster(t, 0, "a", "b", "c", "evil")
	eventually(t, "all talk", allUp(nodes))
	good, evil := nodes[:3], nodes[3]
	stop := load(t, good...)
	if err := nodes[0].trust.Remove("evil"); err != nil {
		t.Fatal(err)
	}
	out := eventually(t, "evil has no link", func() bool {
		return !slices.ContainsFunc(good, func(n *node) bool { return n.mesh.Up("evil") || evil.mesh.Up(n.trust.Name()) })
	})
	rotated := eventually(t, "the old root is retired", func() bool {
		return !slices.ContainsFunc(good, func(n *node) bool { return n.trust.Rotating() })
	})
	for _, n := range good {
		if err := evil.ask(n); err == nil {
			t.Errorf("evil still talks to %s", n.trust.Name())
		}
	}
	lost, sent := stop()
	t.Logf("out everywhere after %v, old root retired %v later; %d asked, %d in vain", out, rotated, sent, lost)
	if lost > 0 || sent == 0 {
		t.Errorf("%d of %d lost", lost, sent)
	}
	if out > 2*time.Second {
		t.Errorf("out only after %v", out)
	}
	if err := evil.trust.CatchUp(t.Context(), nodes[1].addr, dialJoin); err == nil {
		t.Error("evil caught up")
	}
}

func TestAwayDuringRemoval(t *testing.T) {
	nodes := cluster(t, 0, "a", "b", "away", "evil")
	eventually(t, "all talk", allUp(nodes))
	away := nodes[2]
	away.stop()
	if err := nodes[0].trust.Remove("evil"); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, "the rotation does not wait for ever", func() bool {
		return !nodes[0].trust.Rotating() && !nodes[1].trust.Rotating()
	})
	away.run()
	if err := away.ask(nodes[0]); err == nil {
		t.Fatal("the retired root is still believed")
	}
	if err := away.trust.CatchUp(t.Context(), nodes[1].addr, dialJoin); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the one that was away talks again", func() bool { return away.ask(nodes[0]) == nil })
	t.Logf("rotation without one node took %v", took)
}

func TestJoinOverMeshRefuses(t *testing.T) {
	nodes := cluster(t, 0, "a", "b")
	k, err := nodes[0].trust.NewToken([]string{nodes[0].addr}, trust.TokenOptions{Uses: 1})
	if err != nil {
		t.Fatal(err)
	}
	join := func(name string) error {
		_, err := open(t, 0).trust.Join(t.Context(), k, name, dialJoin)
		return err
	}
	if err := join("b"); !errors.Is(err, trust.ErrNameTaken) {
		t.Errorf("a taken name: %v", err)
	}
	if err := join("c"); err != nil {
		t.Errorf("the first: %v", err)
	}
	if err := join("d"); !errors.Is(err, trust.ErrTokenUsed) {
		t.Errorf("the second: %v", err)
	}
	if got := fmt.Sprint(k); len(got) > 60 {
		t.Errorf("a token prints as %q", got)
	}
}
