// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"
)

func TestRemove(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "c", "evil")
	a, evil := all[0], all[3]
	loot := w.token(evil, TokenOptions{Uses: 5})
	w.gossip(all...)
	if err := a.Remove("nobody"); !errors.Is(err, ErrUnknownNode) {
		t.Errorf("remove nobody: %v", err)
	}
	if err := a.Remove("a"); !errors.Is(err, ErrItself) {
		t.Errorf("remove itself: %v", err)
	}
	if err := a.Remove("evil"); err != nil {
		t.Fatal(err)
	}
	mustNot(t, a, evil, ErrDenied) // at once
	wantRoster(t, a, "a", "b", "c")
	good := all[:3]
	w.turn("the old root is retired", good, func() bool {
		return !a.Rotating() && !all[1].Rotating() && !all[2].Rotating()
	})
	for _, n := range good {
		mustNot(t, n, evil, ErrDenied)
		for _, other := range good {
			must(t, n, other)
		}
	}
	loot.Addrs, loot.Roots = []string{"a:1"}, w.token(a, TokenOptions{}).Roots
	if _, err := w.join(loot, "evil2"); !errors.Is(err, ErrTokenUnknown) {
		t.Errorf("joined by a token that the removed node had made: %v", err)
	}
	// Even if the removed node gets the document it cannot read the new key.
	s := a.now.Load()
	for _, r := range s.view.roots {
		if _, ok := r.Sealed[evil.now.Load().id]; ok && !r.Retired {
			t.Error("a root in use is sealed to the removed node")
		}
	}
	// The name can come back with a new key.
	if back, err := w.join(w.token(a, TokenOptions{}), "evil"); err != nil {
		t.Errorf("the name is lost for ever: %v", err)
	} else {
		must(t, a, back)
		mustNot(t, a, evil, ErrDenied)
	}
}

// forge is what a removed node can do with all it ever knew: its root key, its own key, a document.
type forge struct {
	*state
	root *rootView
	key  ed25519.PrivateKey
}

func (w *world) forge(evil *Trust) *forge {
	w.t.Helper()
	s := *evil.now.Load()
	s.doc = s.doc.clone()
	root, key, err := s.signer()
	if err != nil {
		w.t.Fatal(err)
	}
	return &forge{&s, root, key}
}

// node makes up a node, signed by the old root.
func (f *forge) node(t *testing.T, name, by string) *state {
	t.Helper()
	s, err := newState(name)
	if err != nil {
		t.Fatal(err)
	}
	n := s.entry(f.doc.Cluster)
	n.By, n.Root = by, f.root.id
	n.Signature = ed25519.Sign(f.key, n.message(f.doc.Cluster))
	f.doc.Nodes = append(f.doc.Nodes, n)
	return s
}

func (f *forge) certificate(t *testing.T, s *state) *Trust {
	t.Helper()
	own, err := issue(f.doc.Cluster, s.name, s.key, f.root, f.key, time.Now(), time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.own, s.doc = own, f.doc
	n := new(Trust)
	n.now.Store(s)
	return n
}

// The removed node knows the authority's key of its time. A certificate for a new name, or for a name on the
// roster with another key, must be worth nothing, also before the old root is retired.
func TestRemovedNodeIssuesCertificates(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "evil")
	f := w.forge(all[2])
	if err := all[0].Remove("evil"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"new", "b", "evil"} {
		s, err := newState(name)
		if err != nil {
			t.Fatal(err)
		}
		mustNot(t, all[0], f.certificate(t, s), ErrNotOnRoster)
	}
}

// The removed node finds b, which has not heard of the removal, and tells it all kinds of things. When b hears,
// nothing of it may be left, at b or elsewhere.
func TestRemovedNodeSpeaksThroughOneThatHasNotHeard(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "c", "evil")
	a, b, c := all[0], all[1], all[2]
	f := w.forge(all[3])
	if err := a.Remove("evil"); err != nil {
		t.Fatal(err)
	}
	w.gossip(a, c)

	phantom := f.certificate(t, f.node(t, "phantom", "b"))
	back := f.certificate(t, f.node(t, "evil", "b"))
	f.steal(t, b) // its own seal key beside b's name and key
	ownRoot := f.newRoot(t)
	viaRoot := &forge{f.state, ownRoot.view, ownRoot.key}
	cuckoo := viaRoot.certificate(t, viaRoot.node(t, "cuckoo", "b"))
	loot := f.token(t)
	f.keepAll(t, ownRoot)

	data, err := f.doc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Merge(data); err != nil {
		t.Fatal(err)
	}
	must(t, b, phantom) // b cannot know better
	must(t, b, cuckoo)
	if err := b.change(b.step); err != nil {
		t.Fatal(err)
	}

	good := []*Trust{a, b, c}
	for _, n := range []*Trust{a, c} {
		hear(t, n, b) // the worst case: they still talk
		mustNot(t, n, phantom, ErrNotOnRoster)
		mustNot(t, n, cuckoo, ErrNotOnRoster)
		mustNot(t, n, back, ErrDenied)
	}
	hear(t, b, a)
	w.turn("the rotation ends", good, func() bool { return !a.Rotating() && !b.Rotating() && !c.Rotating() })
	for _, n := range good {
		wantRoster(t, n, "a", "b", "c")
		mustNot(t, n, phantom, ErrNotOnRoster)
		mustNot(t, n, cuckoo, ErrNotOnRoster)
		mustNot(t, n, back, ErrDenied)
		if _, ok := n.now.Load().view.tokens[loot]; ok {
			t.Errorf("%s would honour a token that the removed node made after its removal", n.Name())
		}
		if !bytes.Equal(n.now.Load().view.roster["b"].Seal, b.now.Load().seal.PublicKey().Bytes()) {
			t.Errorf("%s would seal what is for b to the removed node", n.Name())
		}
		for _, other := range good {
			must(t, n, other)
		}
	}
}

// keepAll is a denial that keeps what the removed node has made.
func (f *forge) keepAll(t *testing.T, root forgedRoot) {
	t.Helper()
	keep := []string{string(root.view.id)}
	for _, n := range f.doc.Nodes {
		keep = append(keep, n.entry(f.doc.Cluster))
	}
	d := Denial{Name: "nobody", Roots: []RootID{f.root.id}, Keep: keep, By: "evil", Key: f.id}
	d.Signature = ed25519.Sign(f.state.key, d.message(f.doc.Cluster))
	f.doc.Denials = append(f.doc.Denials, d)
}

// hear gives a node another's document, whether they have a link or not.
func hear(t *testing.T, n, from *Trust) {
	t.Helper()
	data, err := from.Document()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Merge(data); err != nil {
		t.Fatal(err)
	}
}

func (f *forge) steal(t *testing.T, victim *Trust) {
	t.Helper()
	v := victim.now.Load()
	n := *v.view.roster[v.name]
	n.Seal = f.seal.PublicKey().Bytes()
	n.Signature = ed25519.Sign(f.key, n.message(f.doc.Cluster))
	f.doc.Nodes = append(f.doc.Nodes, n)
}

type forgedRoot struct {
	view *rootView
	key  ed25519.PrivateKey
}

func (f *forge) newRoot(t *testing.T) forgedRoot {
	t.Helper()
	der, key, err := newRoot(f.root.id, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := Root{Certificate: der, Parent: f.root.id, Ready: true, Sealed: make(map[KeyID][]byte)}
	r.Signature = ed25519.Sign(f.key, r.message(f.doc.Cluster))
	for _, n := range f.doc.Nodes {
		if r.Sealed[n.ID()], err = seal(n.Seal, r.ID(), key); err != nil {
			t.Fatal(err)
		}
	}
	f.doc.Roots = append(f.doc.Roots, r)
	v, _, err := read(f.doc, nil)
	if err != nil {
		t.Fatal(err)
	}
	return forgedRoot{v.roots[r.ID()], key}
}

func (f *forge) token(t *testing.T) string {
	t.Helper()
	k := Token{ID: tokenID([]byte("known to the removed node alone.")), Expires: time.Now().Add(time.Hour).Unix(), Uses: 100, Replace: true, By: "a", Root: f.root.id}
	k.Signature = ed25519.Sign(f.key, k.message(f.doc.Cluster))
	f.doc.Tokens = append(f.doc.Tokens, k)
	return k.ID
}

// Two nodes that cannot talk each remove another: both removals count, and neither removed node has the key that
// is in use in the end.
func TestRemovalsAtTheSameTime(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "c", "x", "y")
	a, b, good := all[0], all[1], all[:3]
	if err := a.Remove("x"); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove("y"); err != nil {
		t.Fatal(err)
	}
	w.gossip(good...)
	w.turn("rotation", good, func() bool { return !a.Rotating() && !b.Rotating() && !all[2].Rotating() })
	for _, n := range good {
		wantRoster(t, n, "a", "b", "c")
		if v := n.now.Load().view; v.tainted(v.newest) {
			t.Errorf("%s uses a root whose key a removed node has", n.Name())
		}
		for _, other := range good {
			must(t, n, other)
		}
	}
}

// Two nodes that remove each other are both out; the others go on.
func TestMutualRemoval(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "c", "d")
	if err := errors.Join(all[0].Remove("b"), all[1].Remove("a")); err != nil {
		t.Fatal(err)
	}
	good := all[2:]
	for i, n := range good { // each hears another one first
		hear(t, n, all[i])
		hear(t, n, all[1-i])
	}
	w.turn("rotation", good, func() bool { return !good[0].Rotating() && !good[1].Rotating() })
	for _, n := range good {
		wantRoster(t, n, "c", "d")
	}
	must(t, good[0], good[1])
}
