// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// history returns documents of one cluster that know different things, and a node that can go on.
func history(t testing.TB) ([]*Document, *world, *Trust) {
	t.Helper()
	w := newWorld(t)
	all := w.cluster("a", "b", "c", "d")
	var docs []*Document
	note := func(n *Trust) { docs = append(docs, n.now.Load().doc) }
	k := w.token(all[1], TokenOptions{Uses: 3, Replace: true})
	note(all[1])
	if _, err := w.join(k, "e"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.join(k, "d"); err != nil {
		t.Fatal(err)
	}
	note(all[1])
	if err := errors.Join(all[0].Remove("c"), all[2].Remove("a"), all[3].RotateCA(), all[1].RevokeToken(k.ID())); err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		note(n)
	}
	return docs, w, all[1]
}

func encoded(t testing.TB, d *Document) []byte {
	t.Helper()
	data, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func merged(t testing.TB, a, b *Document) *Document {
	t.Helper()
	m, err := MergeDocuments(a, b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMergeIsALattice(t *testing.T) {
	docs, w, b := history(t)
	w.turn("rotation", []*Trust{b}, func() bool { return !b.Rotating() })
	docs = append(docs, b.now.Load().doc) // with a retired root
	for range 200 {
		a, b, c := docs[rand.IntN(len(docs))], docs[rand.IntN(len(docs))], docs[rand.IntN(len(docs))]
		before := encoded(t, a)
		if !bytes.Equal(encoded(t, merged(t, a, b)), encoded(t, merged(t, b, a))) {
			t.Fatal("merge does not commute")
		}
		if !bytes.Equal(encoded(t, merged(t, merged(t, a, b), c)), encoded(t, merged(t, a, merged(t, b, c)))) {
			t.Fatal("merge does not associate")
		}
		if !bytes.Equal(encoded(t, merged(t, merged(t, a, b), b)), encoded(t, merged(t, a, b))) {
			t.Fatal("merge is not idempotent")
		}
		if !bytes.Equal(before, encoded(t, a)) {
			t.Fatal("merge changed what it was given")
		}
	}
}

func TestMergeRefusesOtherCluster(t *testing.T) {
	one, two := newWorld(t).cluster("a")[0], newWorld(t).cluster("a")[0]
	data, err := two.Document()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.Merge(data); !errors.Is(err, ErrCluster) {
		t.Errorf("merged another cluster: %v", err)
	}
	// It cannot be had by a claim either: the name of a cluster is the hash of its first root.
	d := two.now.Load().doc.clone()
	d.Cluster = one.now.Load().doc.Cluster
	if _, err := one.Merge(encoded(t, d)); err == nil {
		t.Error("merged a document that lies about its cluster")
	}
	wantRoster(t, one, "a")
}

// A forged entry with the same key as a good one must not push it out.
func TestForgeryDoesNotPushOut(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b")
	if err := all[0].RotateCA(); err != nil {
		t.Fatal(err)
	}
	d := all[0].now.Load().doc.clone()
	for i := range d.Roots {
		d.Roots[i].Signature = make([]byte, 64) // sorts before any good one
	}
	for i := range d.Nodes {
		d.Nodes[i].Signature = make([]byte, 64)
	}
	if _, err := all[0].Merge(encoded(t, d)); err != nil {
		t.Fatal(err)
	}
	if !all[0].Rotating() {
		t.Error("the new root is gone")
	}
	wantRoster(t, all[0], "a", "b")
}

func FuzzDocument(f *testing.F) {
	docs, _, _ := history(f)
	for _, d := range docs {
		f.Add(encoded(f, d))
	}
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte(`{}`))
	base := docs[0]
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := DecodeDocument(data)
		if err != nil {
			return
		}
		again, err := DecodeDocument(encoded(t, merged(t, d, d)))
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		if _, _, err := read(again, nil); err != nil {
			return
		}
		if m, err := MergeDocuments(base, again); err == nil {
			if _, _, err := read(m, nil); err != nil {
				t.Errorf("a good document was spoilt by a merge: %v", err)
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	w := newWorld(f)
	f.Add(w.token(w.cluster("a")[0], TokenOptions{}).Text())
	f.Add(tokenPrefix + "e30")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseToken(text)
		if err != nil {
			return
		}
		again, err := ParseToken(k.Text())
		if err != nil || again.Text() != k.Text() {
			t.Errorf("%q reads as %q: %v", text, again.Text(), err)
		}
	})
}

// BenchmarkRead is a document of 100 nodes in a rotation, read for the first time and again.
func BenchmarkRead(b *testing.B) {
	w := newWorld(b)
	a := w.empty()
	if err := a.Bootstrap("a"); err != nil {
		b.Fatal(err)
	}
	s := a.now.Load()
	root, key, err := s.signer()
	if err != nil {
		b.Fatal(err)
	}
	f := &forge{s, root, key}
	for range 99 {
		name := "n" + time.Now().Format("150405.000000000")
		n, err := newState(name)
		if err != nil {
			b.Fatal(err)
		}
		e := n.entry(s.doc.Cluster)
		e.Root = root.id
		e.Signature = ed25519.Sign(f.key, e.message(s.doc.Cluster))
		s.doc.Nodes = append(s.doc.Nodes, e)
		if err := s.share(&e); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(encoded(b, s.doc))), "bytes")
	for _, cached := range []bool{false, true} {
		b.Run(map[bool]string{false: "first", true: "again"}[cached], func(b *testing.B) {
			var sigs *signatures
			if cached {
				sigs = new(signatures)
			}
			for b.Loop() {
				if _, _, err := read(s.doc, sigs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(encoded(b, s.doc))), "bytes")
		})
	}
}
