// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"slices"
	"testing"
	"time"
)

// world is a few nodes that can be asked by address, each called as its address but for the port.
type world struct {
	t     testing.TB
	nodes map[string]*Trust
	now   time.Time // wall clock of all; zero: the real one
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{t: t, nodes: make(map[string]*Trust)}
}

func (w *world) clock() time.Time {
	if w.now.IsZero() {
		return time.Now()
	}
	return w.now
}

func (w *world) open(dir string) *Trust {
	w.t.Helper()
	t, err := Open(dir, Config{Log: slog.New(slog.DiscardHandler), Now: w.clock, Haste: 50 * time.Millisecond,
		Members: func() []string { return []string{"member:1"} }})
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

func (w *world) empty() *Trust {
	dir := w.t.TempDir()
	if err := chmod(dir); err != nil {
		w.t.Fatal(err)
	}
	return w.open(dir)
}

// cluster bootstraps the first name and joins the others to it.
func (w *world) cluster(names ...string) []*Trust {
	w.t.Helper()
	first := w.empty()
	if err := first.Bootstrap(names[0]); err != nil {
		w.t.Fatal(err)
	}
	w.nodes[names[0]] = first
	all := []*Trust{first}
	for _, name := range names[1:] {
		n, err := w.join(w.token(first, TokenOptions{}), name)
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, n)
	}
	w.gossip(all...)
	return all
}

func (w *world) token(by *Trust, o TokenOptions) JoinToken {
	w.t.Helper()
	k, err := by.NewToken([]string{by.Name() + ":1"}, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

func (w *world) join(k JoinToken, name string) (*Trust, error) {
	n := w.empty()
	_, err := n.Join(w.t.Context(), k, name, w.dial)
	if err == nil {
		w.nodes[name] = n
	}
	return n, err
}

// boundPipe is a net.Pipe with a channel binding.
type boundPipe struct {
	net.Conn
	binding []byte
}

func (p boundPipe) ChannelBinding() []byte { return p.binding }

// dial is a Dialer that finds nodes by name.
func (w *world) dial(ctx context.Context, addr string, verify func([]*x509.Certificate) error) (Conn, error) {
	name, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	member := w.nodes[name]
	if member == nil {
		return nil, errors.New("nobody there")
	}
	if err := verify(chainOf(member)); err != nil {
		return nil, err
	}
	binding := make([]byte, bindingSize)
	_, _ = rand.Read(binding) // never fails
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		_, _ = member.Admit(context.WithoutCancel(ctx), boundPipe{far, binding}) // the joiner is told
	}()
	return boundPipe{near, binding}, nil
}

func chainOf(t *Trust) []*x509.Certificate {
	own, err := t.Certificate()
	if err != nil {
		return nil
	}
	var chain []*x509.Certificate
	for _, der := range own.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil
		}
		chain = append(chain, cert)
	}
	return chain
}

// gossip passes documents on between nodes that trust each other, until nobody learns anything.
func (w *world) gossip(nodes ...*Trust) {
	w.t.Helper()
	for news := true; news; {
		news = false
		for _, from := range nodes {
			data, err := from.Document()
			if err != nil {
				w.t.Fatal(err)
			}
			for _, to := range nodes {
				if to == from || !linked(from, to) {
					continue
				}
				n, err := to.Merge(data)
				if err != nil {
					w.t.Fatal(err)
				}
				news = news || n
			}
		}
	}
}

func linked(a, b *Trust) bool {
	_, err := a.Verify(chainOf(b))
	_, back := b.Verify(chainOf(a))
	return err == nil && back == nil
}

// turn has all nodes do what is due and gossip, until ok says yes.
func (w *world) turn(what string, nodes []*Trust, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not in time: %s", what)
		}
		for _, n := range nodes {
			if err := n.change(n.step); err != nil {
				w.t.Fatal(err)
			}
		}
		w.gossip(nodes...)
	}
}

func names(t *Trust) []string {
	var all []string
	for _, m := range t.Roster() {
		all = append(all, m.Name)
	}
	return all
}

func wantRoster(t *testing.T, n *Trust, want ...string) {
	t.Helper()
	if got := names(n); !slices.Equal(got, want) {
		t.Errorf("%s has roster %v, want %v", n.Name(), got, want)
	}
}

func mustNot(t *testing.T, by, whom *Trust, reason error) {
	t.Helper()
	if name, err := by.Verify(chainOf(whom)); !errors.Is(err, reason) {
		t.Errorf("%s about %s: %q, %v; want %v", by.Name(), whom.Name(), name, err, reason)
	}
}

func must(t *testing.T, by, whom *Trust) {
	t.Helper()
	if name, err := by.Verify(chainOf(whom)); err != nil || name != whom.Name() {
		t.Errorf("%s about %s: %q, %v", by.Name(), whom.Name(), name, err)
	}
}
