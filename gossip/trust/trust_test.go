// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func chmod(dir string) error { return os.Chmod(dir, 0o700) }

func TestBootstrapAndReopen(t *testing.T) {
	w := newWorld(t)
	n := w.empty()
	if _, err := n.Certificate(); !errors.Is(err, ErrNoCluster) || n.Name() != "" {
		t.Errorf("an empty trust has a certificate: %v", err)
	}
	if err := n.Bootstrap("Bad Name"); err == nil {
		t.Error("a bad name was taken")
	}
	if err := n.Bootstrap("a"); err != nil {
		t.Fatal(err)
	}
	if err := n.Bootstrap("b"); !errors.Is(err, ErrInCluster) {
		t.Errorf("bootstrapped twice: %v", err)
	}
	must(t, n, n)
	info, err := os.Stat(filepath.Join(n.dir, fileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info.Mode(), err)
	}
	again := w.open(n.dir)
	must(t, n, again)
	before, _ := n.ResetKey()
	after, err := again.ResetKey()
	if err != nil || before != after || again.Name() != "a" || again.Cluster() != n.Cluster() {
		t.Errorf("reopened as %q of %q, reset key the same: %v, %v", again.Name(), again.Cluster(), before == after, err)
	}
	if err := os.Chmod(n.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(n.dir, n.cfg); err == nil {
		t.Error("opened a directory that others can read")
	}
}

func TestJoin(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "c")
	for _, n := range all {
		wantRoster(t, n, "a", "b", "c")
		for _, other := range all {
			must(t, n, other)
		}
	}
	// Any node can honour any other's token.
	k := w.token(all[0], TokenOptions{Uses: 2})
	k.Addrs = []string{"nowhere:1", "b:1"}
	w.gossip(all...)
	d, err := w.join(k, "d")
	if err != nil {
		t.Fatal(err)
	}
	if by := d.Roster()[3].By; by != "b" {
		t.Errorf("admitted by %q", by)
	}
	mustNot(t, all[0], d, ErrNotOnRoster) // a has not heard yet
	w.gossip(all...)
	must(t, all[0], d)
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	w.now = time.Now()
	a := w.cluster("a", "b")[0]
	refused := func(what string, k JoinToken, name string, want error) {
		t.Helper()
		if _, err := w.join(k, name); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	k := w.token(a, TokenOptions{})
	refused("a taken name", k, "b", ErrNameTaken)
	refused("the name of the member that is asked", k, "a", ErrNameTaken)
	if _, err := w.join(k, "c"); err != nil {
		t.Fatalf("the refusals used the token up: %v", err)
	}
	refused("used", k, "d", ErrTokenUsed)

	k = w.token(a, TokenOptions{Life: time.Minute})
	w.now = w.now.Add(time.Minute)
	refused("expired", k, "d", ErrTokenExpired)

	k = w.token(a, TokenOptions{})
	if err := a.RevokeToken(k.ID()); err != nil {
		t.Fatal(err)
	}
	refused("revoked", k, "d", ErrTokenUnknown)

	k = w.token(a, TokenOptions{})
	k.secret[0] ^= 1
	refused("tampered secret", k, "d", ErrTokenUnknown)

	other := newWorld(t)
	other.cluster("a")
	foreign := other.token(other.nodes["a"], TokenOptions{})
	refused("foreign", foreign, "d", ErrCluster)
	foreign.Roots = w.token(a, TokenOptions{}).Roots // its maker knows this cluster's root
	refused("foreign with our root", foreign, "d", ErrCluster)

	if _, err := a.NewToken(nil, TokenOptions{}); err == nil {
		t.Error("a token without an address")
	}
	if _, err := a.NewToken([]string{"a:1"}, TokenOptions{Life: MaxTokenLife + 1}); err == nil {
		t.Error("a token for ever")
	}
	wantRoster(t, a, "a", "b", "c")
}

func TestTokenText(t *testing.T) {
	w := newWorld(t)
	k := w.token(w.cluster("a")[0], TokenOptions{})
	back, err := ParseToken("  " + k.Text() + "\n")
	if err != nil || back.secret != k.secret || back.Cluster != k.Cluster {
		t.Errorf("read back: %v, %v", back, err)
	}
	secret := fmt.Sprintf("%x", k.secret)
	for _, shown := range []string{k.String(), fmt.Sprintf("%v %+v %#v %s", k, k, k, &k), k.LogValue().String()} {
		if strings.Contains(shown, k.Text()) || strings.Contains(shown, secret[:16]) || strings.Contains(shown, fmt.Sprint(k.secret)) {
			t.Errorf("the secret is in %q", shown)
		}
	}
	text := k.Text()
	for _, bad := range []string{"", "curfew-join-2.x", text[:len(text)-3], text + "A", strings.Replace(text, "e", "!", 1), tokenPrefix, tokenPrefix + "e30", text + strings.Repeat("A", maxToken)} {
		if _, err := ParseToken(bad); !errors.Is(err, ErrTokenForm) {
			t.Errorf("%.40q: %v", bad, err)
		} else if len(bad) > 30 && strings.Contains(err.Error(), bad[20:30]) {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}

// A machine that was set up anew comes back under its name; its old key is worth nothing then.
func TestReplace(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "c")
	old := all[1]
	k := w.token(all[0], TokenOptions{Replace: true})
	again, err := w.join(k, "b")
	if err != nil {
		t.Fatal(err)
	}
	w.gossip(all[0], all[2], again)
	for _, n := range []*Trust{all[0], all[2]} {
		must(t, n, again)
		mustNot(t, n, old, ErrDenied)
		wantRoster(t, n, "a", "b", "c")
	}
	w.turn("the root that the old key knew is retired", []*Trust{all[0], all[2], again}, func() bool {
		return !all[0].Rotating() && !all[2].Rotating() && !again.Rotating()
	})
	must(t, all[2], again)
}

func TestRotateCA(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "c")
	first := chainOf(all[0])
	if err := all[1].RotateCA(); err != nil {
		t.Fatal(err)
	}
	if err := all[1].RotateCA(); !errors.Is(err, ErrRotating) {
		t.Errorf("rotated twice at a time: %v", err)
	}
	w.turn("rotation", all, func() bool {
		for _, n := range all {
			for _, other := range all {
				must(t, n, other) // at each step
			}
		}
		return !all[0].Rotating() && !all[1].Rotating() && !all[2].Rotating()
	})
	if _, err := all[1].Verify(first); err == nil {
		t.Error("a certificate of the retired root is believed")
	}
	if d, err := w.join(w.token(all[2], TokenOptions{}), "d"); err != nil {
		t.Errorf("join after a rotation: %v", err)
	} else {
		must(t, d, all[0])
	}
	must(t, all[0], w.open(all[0].dir)) // what is on disk is of the new root
}

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
	// A denial that keeps what the removed node has made.
	keep := []string{string(ownRoot.view.id)}
	for _, n := range f.doc.Nodes {
		keep = append(keep, n.entry(f.doc.Cluster))
	}
	d := Denial{Name: "nobody", Roots: []RootID{f.root.id}, Keep: keep, By: "evil", Key: f.id}
	d.Signature = ed25519.Sign(f.state.key, d.message(f.doc.Cluster))
	f.doc.Denials = append(f.doc.Denials, d)

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
	data, err = b.Document()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*Trust{a, c} {
		if _, err := n.Merge(data); err != nil { // the worst case: b and they still talk
			t.Fatal(err)
		}
		mustNot(t, n, phantom, ErrNotOnRoster)
		mustNot(t, n, cuckoo, ErrNotOnRoster)
		mustNot(t, n, back, ErrDenied)
	}
	data, err = a.Document()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Merge(data); err != nil {
		t.Fatal(err)
	}
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
	var docs [][]byte
	for _, n := range all[:2] {
		data, err := n.Document()
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, data)
	}
	good := all[2:]
	for i, n := range good { // each hears the other one first
		for j := range docs {
			if _, err := n.Merge(docs[(i+j)%2]); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.turn("rotation", good, func() bool { return !good[0].Rotating() && !good[1].Rotating() })
	for _, n := range good {
		wantRoster(t, n, "c", "d")
	}
	must(t, good[0], good[1])
}

// A node that was away during a removal comes back without a token.
func TestCatchUp(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "away", "evil")
	a, away := all[0], all[2]
	if err := a.Remove("evil"); err != nil {
		t.Fatal(err)
	}
	w.turn("rotation without one", all[:2], func() bool { return !a.Rotating() && !all[1].Rotating() })
	if linked(a, away) {
		t.Fatal("the retired root is still believed")
	}
	if err := away.CatchUp(t.Context(), "b:1", w.dial); err != nil {
		t.Fatal(err)
	}
	must(t, a, away)
	must(t, away, a)
	mustNot(t, away, all[3], ErrDenied)
	if err := all[3].CatchUp(t.Context(), "b:1", w.dial); err == nil {
		t.Error("the removed node caught up")
	}
}

func TestRenewal(t *testing.T) {
	w := newWorld(t)
	w.now = time.Now()
	a := w.cluster("a", "b")[0]
	first, _ := a.Certificate()
	if err := a.change(a.step); err != nil {
		t.Fatal(err)
	}
	if own, _ := a.Certificate(); own != first {
		t.Error("renewed although it is new")
	}
	w.now = w.now.Add(DefaultLifetime/2 + time.Minute)
	if err := a.change(a.step); err != nil {
		t.Fatal(err)
	}
	own, _ := a.Certificate()
	if own == first || own.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) <= 0 {
		t.Error("not renewed after half of its life")
	}
	must(t, w.nodes["b"], a)
	w.now = w.now.Add(DefaultLifetime + time.Minute)
	if _, err := w.nodes["b"].Verify(chainOf(a)); err == nil {
		t.Error("an expired certificate is believed")
	}
	// A clock that was set back does not bring an older serial number.
	w.now = w.now.Add(-100 * 24 * time.Hour)
	if err := a.change(func(s *state) error { return a.reissue(s) }); err != nil {
		t.Fatal(err)
	}
	if again, _ := a.Certificate(); again.Leaf.SerialNumber.Cmp(own.Leaf.SerialNumber) <= 0 {
		t.Error("serial numbers went back")
	}
}
