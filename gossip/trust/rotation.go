// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"time"
)

const (
	stepBusy = 200 * time.Millisecond // between looks at a rotation that is under way
	stepIdle = time.Minute

	// turn lets one node after the other see what any of them can do, so that one does it.
	turn    = 300 * time.Millisecond
	maxTurn = 10
)

// Run renews this node's certificate and takes rotations further until ctx ends. It returns nil.
//
// A rotation, seen from one node; a step that fails (the disk is full) is tried again:
//
//	somebody made a root ──> note that we know it ──> all do, or a bound: ready
//	     ──> get a certificate of it ──> all have, and settle, or a bound: retire the older ones
//
// The bound is Grace, or Haste when a removed node knows an older root's key.
func (t *Trust) Run(ctx context.Context) error {
	for {
		changed := t.Changed()
		if err := t.change(t.step); err != nil && t.now.Load() != nil {
			t.cfg.Log.Error("rotation or renewal", "err", err)
		}
		pause := stepIdle
		if t.Rotating() || t.renewalIn() < stepIdle {
			pause = stepBusy
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(pause):
		}
	}
}

// renewalIn is how long this node's certificate has until half of its life is over. Nodes that were made
// together renew apart: up to a tenth of a life earlier.
func (t *Trust) renewalIn() time.Duration {
	s := t.now.Load()
	if s == nil {
		return stepIdle
	}
	return s.renewalIn(t.cfg)
}

func (s *state) renewalIn(cfg Config) time.Duration {
	sum := sha256.Sum256(s.own.Certificate[0])
	jitter := time.Duration(binary.BigEndian.Uint64(sum[:]) % uint64(max(cfg.Lifetime/10, 1)))
	return s.own.Leaf.NotAfter.Sub(cfg.Now()) - cfg.Lifetime/2 - jitter
}

// step does what is due now, and returns errUnchanged if nothing is.
func (t *Trust) step(s *state) error {
	v, due := s.view, false
	for _, do := range []func(*state, *view) (bool, error){t.replaceTainted, t.acknowledge, t.share, t.makeReady, t.renew, t.retire} {
		did, err := do(s, v)
		if err != nil {
			return err
		}
		due = due || did
	}
	if !due {
		return errUnchanged
	}
	return nil
}

// root returns the document's entry for a root, to be edited.
func (s *state) root(id RootID) *Root {
	for i := range s.doc.Roots {
		if s.doc.Roots[i].ID() == id {
			return &s.doc.Roots[i]
		}
	}
	return nil
}

// waited says whether something has been so for d, as far as this process has seen. Wall clocks have no say.
func (t *Trust) waited(what string, id RootID, d time.Duration) bool {
	key := what + string(id)
	first, ok := t.since[key]
	if !ok {
		t.since[key] = time.Now()
		return d <= 0
	}
	return time.Since(first) >= d
}

// replaceTainted makes a new root if somebody who was removed has the key of the newest: two nodes that removed
// others at the same time have each sealed theirs to the other's.
func (t *Trust) replaceTainted(s *state, v *view) (bool, error) {
	if !v.tainted(v.newest) || v.members[s.id] == nil || !t.waited("tainted", v.newest.id, s.turn(v)) {
		return false, nil
	}
	next, err := t.nextRoot(s, nil)
	if err != nil {
		return false, err
	}
	s.doc.Roots = append(s.doc.Roots, next)
	return true, nil
}

// turn is how long this node leaves to others what all can do.
func (s *state) turn(v *view) time.Duration {
	rank := slices.Index(slices.Sorted(maps.Keys(v.members)), s.id)
	return time.Duration(max(rank, 0)%maxTurn) * turn
}

// acknowledge says that this node trusts the newest root.
func (t *Trust) acknowledge(s *state, v *view) (bool, error) {
	if slices.Contains(v.newest.Knows, s.id) || v.members[s.id] == nil {
		return false, nil
	}
	r := s.root(v.newest.id)
	r.Knows = append(r.Knows, s.id)
	return true, nil
}

// share seals roots to nodes that were admitted by somebody who did not know of them.
func (t *Trust) share(s *state, v *view) (bool, error) {
	did := false
	for _, root := range v.roots {
		if root.Retired || v.lacks(root) == nil || !t.waited("share", root.id, s.turn(v)) {
			continue
		}
		delete(t.since, "share"+string(root.id))
		key, err := unseal(s.seal, root.Root, s.id, root.key)
		if err != nil {
			continue // others have it
		}
		r := s.root(root.id)
		for _, id := range v.lacks(root) {
			if r.Sealed[id], err = seal(v.members[id].Seal, root.id, key); err != nil {
				return false, err
			}
			did = true
		}
	}
	return did, nil
}

// lacks returns the nodes that a root is not sealed to.
func (v *view) lacks(root *rootView) []KeyID {
	var ids []KeyID
	for id := range v.members {
		if _, ok := root.Sealed[id]; !ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// bound is how long a rotation waits for nodes that are away.
func (t *Trust) bound(v *view) time.Duration {
	for _, r := range v.roots {
		if !r.Retired && v.tainted(r) {
			return t.cfg.Haste
		}
	}
	return t.cfg.Grace
}

func (t *Trust) makeReady(s *state, v *view) (bool, error) {
	if v.newest.Ready {
		return false, nil
	}
	bound := t.waited("ready", v.newest.id, t.bound(v))
	if !bound && !v.all(v.newest.Knows) {
		return false, nil
	}
	s.root(v.newest.id).Ready = true
	return true, nil
}

// renew gets this node a certificate: of the issuing root, with at least half of its life before it.
func (t *Trust) renew(s *state, v *view) (bool, error) {
	current := rootID(s.own.Certificate[1]) == v.issuing.id
	if v.members[s.id] == nil || current && slices.Contains(v.issuing.Uses, s.id) && s.renewalIn(t.cfg) > 0 {
		return false, nil
	}
	if _, err := unseal(s.seal, v.issuing.Root, s.id, v.issuing.key); err != nil {
		return false, nil // somebody will share it; until then the certificate of before does
	}
	if err := t.reissue(s); err != nil {
		return false, err
	}
	t.cfg.Log.Info("certificate renewed", "node", s.name, "until", s.own.Leaf.NotAfter)
	return true, nil
}

// retire ends the trust in all roots but the newest.
func (t *Trust) retire(s *state, v *view) (bool, error) {
	if !v.newest.Ready || !s.rotating() {
		return false, nil
	}
	bound := t.waited("retire", v.newest.id, t.bound(v))
	if !bound && !(v.all(v.newest.Uses) && t.waited("settle", v.newest.id, settle)) {
		return false, nil
	}
	for id, root := range v.roots {
		if r := s.root(id); id != v.newest.id && !root.Retired {
			r.Ready, r.Retired, r.Sealed, r.Knows, r.Uses = true, true, nil, nil, nil
			t.cfg.Log.Info("root retired", "root", id)
		}
	}
	clear(t.since)
	return true, nil
}
