// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"slices"
)

// view is what a Document means: a pure function of it. It is not changed once made.
type view struct {
	roots   map[RootID]*rootView // valid ones, also retired
	newest  *rootView            // the most recent that is not retired; nil: the document is worthless
	issuing *rootView            // the most recent that is ready
	pool    *x509.CertPool       // not retired
	roster  map[string]*Node
	members map[KeyID]*Node // of roster, by key
	denied  map[KeyID]bool
	tokens  map[string]*Token // that can be honoured, as far as time and use allow
}

type rootView struct {
	*Root
	id    RootID
	cert  *x509.Certificate
	key   ed25519.PublicKey
	depth int // how many came before it
}

// later orders roots: of two that were made at the same time by nodes that did not know of each other's, all
// nodes prefer the same.
func (r *rootView) later(other *rootView) bool {
	if other == nil || r.depth != other.depth {
		return other == nil || r.depth > other.depth
	}
	return r.id > other.id
}

// tainted says that somebody who was removed has the root's key.
func (v *view) tainted(r *rootView) bool {
	for id := range r.Sealed {
		if v.denied[id] {
			return true
		}
	}
	return false
}

// reader builds a view in the order in which trust flows.
type reader struct {
	doc   *Document
	sigs  *signatures
	roots map[RootID]*rootView // the chain from the first root is good; nothing is known of removals yet
	nodes map[KeyID]*Node      // signed by one of roots, also those that were denied since

	denied   map[KeyID]bool
	names    map[string]map[RootID]bool // by name: a node of these roots is denied
	cut      map[RootID]bool
	keep     map[string]bool
	validity map[RootID]bool
}

// read checks every signature and returns what holds, and a document without what is not signed by anybody.
func read(doc *Document, sigs *signatures) (*view, *Document, error) {
	r := &reader{
		doc: doc.clone(), sigs: sigs,
		roots: make(map[RootID]*rootView), nodes: make(map[KeyID]*Node), denied: make(map[KeyID]bool),
		names: make(map[string]map[RootID]bool), cut: make(map[RootID]bool), keep: make(map[string]bool),
		validity: make(map[RootID]bool),
	}
	if err := r.readRoots(); err != nil {
		return nil, nil, err
	}
	r.readNodes()
	r.readDenials()
	r.readTokens()
	v := r.view()
	if v.newest == nil {
		return nil, nil, fmt.Errorf("%w: no root is left", ErrDocument)
	}
	return v, r.doc, nil
}

// readRoots follows the chain from the first root, whose hash is the name of the cluster.
func (r *reader) readRoots() error {
	waiting := make(map[RootID][]*rootView)
	for i := range r.doc.Roots {
		root := &r.doc.Roots[i]
		cert, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			continue
		}
		key, ok := cert.PublicKey.(ed25519.PublicKey)
		// The parent is in the certificate, so that nobody can find a root another one.
		if !ok || !cert.IsCA || parentOf(cert) != root.Parent || cert.CheckSignatureFrom(cert) != nil {
			continue
		}
		v := &rootView{Root: root, id: root.ID(), cert: cert, key: key}
		if v.id == r.doc.Cluster {
			r.roots[v.id] = v
		} else {
			waiting[root.Parent] = append(waiting[root.Parent], v)
		}
	}
	if len(r.roots) == 0 {
		return fmt.Errorf("%w: the first root is missing", ErrDocument)
	}
	for ready := []*rootView{r.roots[r.doc.Cluster]}; len(ready) > 0; {
		parent := ready[0]
		ready = ready[1:]
		for _, child := range waiting[parent.id] {
			if r.sigs.verify(parent.key, child.message(r.doc.Cluster), child.Signature) {
				child.depth = parent.depth + 1
				r.roots[child.id] = child
				ready = append(ready, child)
			}
		}
	}
	r.doc.Roots = slices.DeleteFunc(r.doc.Roots, func(root Root) bool { return r.roots[root.ID()] == nil })
	for i := range r.doc.Roots { // deletion moved them
		root := &r.doc.Roots[i]
		r.roots[root.ID()].Root = root
	}
	return nil
}

func (r *reader) readNodes() {
	r.doc.Nodes = slices.DeleteFunc(r.doc.Nodes, func(n Node) bool {
		root := r.roots[n.Root]
		return root == nil || !r.sigs.verify(n.Key, n.claim(r.doc.Cluster), n.Proof) ||
			!r.sigs.verify(root.key, n.message(r.doc.Cluster), n.Signature)
	})
	for i := range r.doc.Nodes {
		n := &r.doc.Nodes[i]
		r.nodes[n.ID()] = n
	}
}

// readDenials takes every denial that a node signed, also one that was denied itself: of two that deny each
// other both are out. But what to keep is said by nodes that are not denied.
func (r *reader) readDenials() {
	r.doc.Denials = slices.DeleteFunc(r.doc.Denials, func(d Denial) bool {
		signer := r.nodes[d.Key]
		return signer == nil || !r.sigs.verify(signer.Key, d.message(r.doc.Cluster), d.Signature)
	})
	for _, d := range r.doc.Denials {
		for _, id := range d.Keys {
			r.denied[id] = true
		}
		if d.Name == "" {
			continue
		}
		if r.names[d.Name] == nil {
			r.names[d.Name] = make(map[RootID]bool)
		}
		for _, id := range d.Roots {
			r.names[d.Name][id] = true
		}
	}
	for _, n := range r.doc.Nodes {
		if r.names[n.Name][n.Root] {
			r.denied[n.ID()] = true
		}
	}
	for _, d := range r.doc.Denials {
		if r.denied[d.Key] {
			continue
		}
		for _, id := range d.Roots {
			r.cut[id] = true
		}
		for _, id := range d.Keep {
			r.keep[id] = true
		}
	}
}

// stands says whether a root may still be believed: every removal that cut its parent has kept it.
func (r *reader) stands(id RootID) bool {
	if known, ok := r.validity[id]; ok {
		return known
	}
	root := r.roots[id]
	ok := root != nil
	if ok && id != r.doc.Cluster {
		ok = r.counts(string(id), root.Parent)
	}
	r.validity[id] = ok
	return ok
}

// counts says whether what a root signed counts.
func (r *reader) counts(id string, signer RootID) bool {
	return r.stands(signer) && (!r.cut[signer] || r.keep[id])
}

func (r *reader) readTokens() {
	r.doc.Tokens = slices.DeleteFunc(r.doc.Tokens, func(t Token) bool {
		root := r.roots[t.Root]
		return root == nil || !r.sigs.verify(root.key, t.message(r.doc.Cluster), t.Signature)
	})
}

func (r *reader) view() *view {
	v := &view{
		roots: make(map[RootID]*rootView), pool: x509.NewCertPool(), denied: r.denied,
		roster: make(map[string]*Node), members: make(map[KeyID]*Node), tokens: make(map[string]*Token),
	}
	for id, root := range r.roots {
		if !r.stands(id) {
			continue
		}
		v.roots[id] = root
		if root.Retired {
			continue
		}
		v.pool.AddCert(root.cert)
		if root.later(v.newest) {
			v.newest = root
		}
		if root.Ready && root.later(v.issuing) {
			v.issuing = root
		}
	}
	if v.issuing == nil {
		v.issuing = v.newest
	}
	for i := range r.doc.Nodes {
		n := &r.doc.Nodes[i]
		id := n.ID()
		if r.denied[id] || !r.counts(n.entry(r.doc.Cluster), n.Root) {
			continue
		}
		// Two nodes of one name, admitted at the same time: all nodes prefer the same. Entries are sorted.
		if v.roster[n.Name] == nil {
			v.roster[n.Name] = n
		}
	}
	for _, n := range v.roster {
		v.members[n.ID()] = n
	}
	for i := range r.doc.Tokens {
		t := &r.doc.Tokens[i]
		if !t.Revoked && r.counts("token", t.Root) {
			v.tokens[t.ID] = t
		}
	}
	return v
}

// all says whether every node of the roster is among ids.
func (v *view) all(ids []KeyID) bool {
	for id := range v.members {
		if !slices.Contains(ids, id) {
			return false
		}
	}
	return true
}
