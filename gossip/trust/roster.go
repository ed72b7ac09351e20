// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Errors of Remove and RotateCA.
var (
	ErrUnknownNode = errors.New("no node of that name")
	ErrItself      = errors.New("a node cannot remove itself; ask another one to")
	ErrRotating    = errors.New("the authority is being rotated already")
)

// Member is a node of the roster.
type Member struct {
	Name  string
	Key   KeyID
	By    string // the node that admitted it: a claim of that node, or of another that had the authority's key
	Token string // ID of the token that it came with; empty: none
	Root  RootID // the root whose certificate it is known to use; empty: not known
}

// Roster returns the nodes that were admitted and not removed, by name.
func (t *Trust) Roster() []Member {
	s := t.now.Load()
	if s == nil {
		return nil
	}
	var members []Member
	for _, name := range slices.Sorted(maps.Keys(s.view.roster)) {
		n := s.view.roster[name]
		m := Member{Name: n.Name, Key: n.ID(), By: n.By, Token: n.Token}
		var latest *rootView
		for _, r := range s.view.roots {
			if slices.Contains(r.Uses, m.Key) && r.later(latest) {
				latest, m.Root = r, r.id
			}
		}
		members = append(members, m)
	}
	return members
}

// Member says whether this node is on the roster. One that was removed hears of it only if somebody still
// talks to it.
func (t *Trust) Member() bool {
	s := t.now.Load()
	return s != nil && s.view.members[s.id] != nil
}

// Removed returns the names that were removed, and did not come back.
func (t *Trust) Removed() []string {
	s := t.now.Load()
	if s == nil {
		return nil
	}
	var names []string
	for _, d := range s.doc.Denials {
		if d.Name != "" && s.view.roster[d.Name] == nil {
			names = append(names, d.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Remove denies a node at once, here and wherever the Document comes, and rotates the authority, whose next key
// the removed node does not learn. Tokens that were made before are void. Nodes that it had admitted stay: see
// Member.By. Returns ErrUnknownNode if there is no such node, ErrItself if it is this one.
func (t *Trust) Remove(name string) error {
	err := t.change(func(s *state) error {
		if name == s.name {
			return ErrItself
		}
		if s.view.roster[name] == nil {
			return ErrUnknownNode
		}
		d := Denial{Name: name}
		for _, n := range s.doc.Nodes {
			if n.Name == name {
				d.Keys = append(d.Keys, n.ID())
			}
		}
		next, err := t.nextRoot(s, d.Keys)
		if err != nil {
			return err
		}
		for id := range s.view.roots {
			d.Roots = append(d.Roots, id)
			d.Keep = append(d.Keep, string(id))
		}
		for _, n := range s.view.roster {
			if n.Name != name {
				d.Keep = append(d.Keep, n.entry(s.doc.Cluster))
			}
		}
		d.Keep = append(d.Keep, string(next.ID()))
		t.deny(s, d)
		s.doc.Roots = append(s.doc.Roots, next)
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	t.cfg.Log.Warn("node removed", "node", name)
	return nil
}

// deny signs a denial and puts it into the document.
func (t *Trust) deny(s *state, d Denial) {
	slices.Sort(d.Keys)
	d.Keys = slices.Compact(d.Keys)
	slices.Sort(d.Roots)
	slices.Sort(d.Keep)
	d.By, d.Key, d.At = s.name, s.id, t.cfg.Now().Unix()
	d.Signature = ed25519.Sign(s.key, d.message(s.doc.Cluster))
	s.doc.Denials = append(s.doc.Denials, d)
}

// RotateCA begins a new root; Run does the rest. It takes no node's link, as long as nodes that are away come back
// within twice the grace. Returns ErrRotating if the last rotation is not over.
func (t *Trust) RotateCA() error {
	err := t.change(func(s *state) error {
		if s.rotating() {
			return ErrRotating
		}
		next, err := t.nextRoot(s, nil)
		if err != nil {
			return err
		}
		s.doc.Roots = append(s.doc.Roots, next)
		return nil
	})
	if err != nil {
		return fmt.Errorf("rotate authority: %w", err)
	}
	return nil
}

// Rotating says whether more than one root is trusted.
func (t *Trust) Rotating() bool {
	s := t.now.Load()
	return s != nil && s.rotating()
}

func (s *state) rotating() bool {
	for _, r := range s.view.roots {
		if !r.Retired && r.id != s.view.newest.id {
			return true
		}
	}
	return false
}

// nextRoot makes a root that follows the newest, signed by it and sealed to the roster but for some keys, and to
// nodes that are about to be on it.
func (t *Trust) nextRoot(s *state, except []KeyID, also ...*Node) (Root, error) {
	if len(s.doc.Roots) >= maxRoots {
		return Root{}, fmt.Errorf("the cluster has had %d roots; make a new one", maxRoots)
	}
	parent, parentKey, err := s.signer()
	if err != nil {
		return Root{}, err
	}
	der, key, err := newRoot(parent.id, t.cfg.Now())
	if err != nil {
		return Root{}, err
	}
	root := Root{Certificate: der, Parent: parent.id, Sealed: make(map[KeyID][]byte), Knows: []KeyID{s.id}}
	root.Signature = ed25519.Sign(parentKey, root.message(s.doc.Cluster))
	for _, n := range slices.AppendSeq(also, maps.Values(s.view.members)) {
		id := n.ID()
		if slices.Contains(except, id) {
			continue
		}
		if root.Sealed[id], err = seal(n.Seal, root.ID(), key); err != nil {
			return Root{}, err
		}
	}
	return root, nil
}

// signer returns the latest root whose key this node has.
func (s *state) signer() (*rootView, ed25519.PrivateKey, error) {
	var best *rootView
	var bestKey ed25519.PrivateKey
	for _, r := range s.view.roots {
		if r.Retired || !r.later(best) {
			continue
		}
		if key, err := unseal(s.seal, r.Root, s.id, r.key); err == nil {
			best, bestKey = r, key
		}
	}
	if best == nil {
		return nil, nil, errors.New("this node has not been given the authority's key yet")
	}
	return best, bestKey, nil
}
