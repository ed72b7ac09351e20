// SPDX-License-Identifier: Apache-2.0

package session

import "fmt"

// Validate notes that the provider has confirmed a session just now, and what it says of its user. That is durable,
// and on its way to other nodes, when it returns. Returns an EndedError or ErrNotFound, and an error if it is not the
// user that the session is of.
func (t *Table) Validate(id ID, identity Identity) error {
	t.mu.Lock()
	e := t.byID[id]
	if e == nil {
		t.mu.Unlock()
		return ErrNotFound
	}
	if _, err := t.aliveLocked(e); err != nil {
		t.mu.Unlock()
		return err
	}
	if !sameIdentity(e.identity.Identity, identity) {
		t.mu.Unlock()
		return fmt.Errorf("session %s is not of %q at %q", id.Short(), identity.Subject, identity.Issuer)
	}
	at, known := t.cfg.Timebase.Remote(e.origin(), t.cfg.Clock.Boot())
	if !known {
		t.mu.Unlock()
		return fmt.Errorf("session %s: the clock of the node that created it is not known", id.Short())
	}
	r := t.recordLocked(e)
	r.Identity, r.Validated = identity, max(at, r.Validated+1)
	var changed bool
	t.changeLocked(e, func() { changed = t.describeLocked(e, &r) })
	s := t.sessionLocked(e)
	t.mu.Unlock()
	if changed && t.cfg.OnIdentity != nil {
		t.cfg.OnIdentity(s)
	}
	if t.cfg.OnValidate != nil {
		t.cfg.OnValidate(r)
	}
	return t.save(s)
}

// describeLocked takes over what a record says of the session's user, and reports whether that is something else than
// before. The caller changes the digest.
func (t *Table) describeLocked(e *entry, r *Record) (changed bool) {
	if e.identity == nil || r.Tombstone() {
		return false
	}
	if e.validated != r.Validated {
		d := *e.details
		d.validated = r.Validated
		e.details = &d
	}
	if equalIdentity(e.identity.Identity, r.Identity) {
		return false
	}
	old := e.identity
	e.identity = t.internLocked(r.Identity)
	t.releaseLocked(old)
	return true
}
