// SPDX-License-Identifier: Apache-2.0

package session

// person is an identity that sessions share as long as it says the same in them.
type person struct {
	Identity
	sessions int
}

func (t *Table) internLocked(i Identity) *person {
	name := [2]string{i.Issuer, i.Subject}
	p := t.people[name]
	if p == nil || !equalIdentity(p.Identity, i) {
		p = &person{Identity: i}
		t.people[name] = p
	}
	p.sessions++
	return p
}

func (t *Table) releaseLocked(p *person) {
	name := [2]string{p.Issuer, p.Subject}
	if p.sessions--; p.sessions == 0 && t.people[name] == p {
		delete(t.people, name)
	}
}
