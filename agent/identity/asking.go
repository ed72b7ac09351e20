// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"math/rand/v2"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// What the vault knows of asking providers about its grants, for Revalidator:
//
//	idle --begin--> asking --asked--> asking, the disk has what is new --release--> idle, or asking once more

// begin returns copies of the grants that are chosen, which nobody is asking about already, and notes that they are
// asked about. asked must be called with each.
func (v *Vault) begin(chosen func(*grant) bool) (list []grant) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, g := range v.held {
		if now := g.provider.config().Revalidation; now != g.rule {
			g.rule, g.next = now, time.Time{}
			v.held[id] = g
		}
		if every := g.rule.Every; g.next.IsZero() && every > 0 && len(g.tokens.Refresh) > 0 {
			g.next = g.asked.Add(every - rand.N(every/8+1)) // not all of a busy morning at once
			v.held[id] = g
		}
		if !g.asking && len(g.tokens.Refresh) > 0 && chosen(&g) {
			list = append(list, v.beginLocked(g))
		}
	}
	return list
}

func (v *Vault) beginLocked(g grant) grant {
	g.asking, g.again = true, false
	v.held[g.session] = g
	g.tokens = g.tokens.clone()
	return g
}

// onceMore notes that those grants are to be asked about once more which are being asked about.
func (v *Vault) onceMore(chosen func(*grant) bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, g := range v.held {
		if g.asking && chosen(&g) {
			g.again = true
			v.held[id] = g
		}
	}
}

// asked takes over what the provider has given for g, with the error that there was. Those of a session that has ended meanwhile
// are revoked. Rotated tokens are on the disk before they are used: nobody asks with them until release is called.
func (v *Vault) asked(g grant, tokens Tokens, err error) {
	defer g.tokens.Wipe()
	v.mu.Lock()
	now, held := v.held[g.session]
	if err == nil {
		now.asked, now.next, now.failures = time.Now(), time.Time{}, 0
	} else {
		now.next = g.provider.config().Revalidation.retry(time.Now(), now.asked, now.failures)
		now.failures++
	}
	if !tokens.Empty() {
		now.tokens.Wipe()
		now.tokens = tokens
	}
	if held {
		v.held[g.session] = now
		now.tokens = now.tokens.clone() // for the disk; the session may end at any time
	}
	closed := v.closed
	v.mu.Unlock()
	if closed {
		defer v.forget(g.session)
	}
	switch {
	case held && tokens.Empty():
		now.tokens.Wipe()
	case held:
		v.persist(now)
	default:
		v.discard(g.provider, tokens)
	}
}

// release lets a grant be asked about again. If it is to be asked about once more it returns a copy, as begin does.
func (v *Vault) release(id session.ID) (g grant, again bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	g, held := v.held[id]
	if !held {
		return grant{}, false
	}
	if g.again {
		return v.beginLocked(g), true
	}
	g.asking = false
	v.held[id] = g
	return grant{}, false
}
