// SPDX-License-Identifier: Apache-2.0

package session

import (
	"strings"
	"time"
)

// FreshFrom is an instant as Watermark.Fresh has it: a fraction of a second is rounded up, for claims leave it out.
func FreshFrom(t time.Time) int64 {
	return t.Add(time.Second - 1).Unix()
}

// emailSubject begins, in a watermark with Fresh, the Subject that stands for whoever has an address. No provider's subject begins
// so: it is not printable. A node of a version that does not know of this takes it for a subject that nobody has.
const emailSubject = "\x01email:"

// EmailSubject is, in a watermark, for whoever has an address at Issuer, also somebody who is not signed in.
func EmailSubject(email string) string { return emailSubject + strings.ToLower(email) }

// stale reports whether the session is of a user who was not authenticated since the watermark demands it. That is for the
// provider to say (auth_time): where it says nothing it is taken to be long ago, or a provider's single sign-on would go on for
// whoever has stolen it. There is no leeway: who changes a credential is authenticated for it, seconds before, and may be the thief.
//
// The token of a machine mostly has no auth_time. Then it counts that it was issued after Before, as for every watermark: that
// proves the machine's own credential.
func (s *Session) stale(w *Watermark) bool {
	switch {
	case w.Fresh == 0:
		return false
	case s.Identity.AuthTime.IsZero():
		return s.Method != MethodToken
	}
	return s.Identity.AuthTime.Unix() < w.Fresh
}

// FreshSince returns when a user, in a session of the provider's, had to be authenticated, or later, for a session to come of it;
// zero: whenever.
func (t *Table) FreshSince(who Identity, sid string) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetMarksLocked(t.cfg.Clock.Boot())
	var latest int64
	for w := range t.marks.of(&who, sid) {
		latest = max(latest, w.Fresh)
	}
	if latest == 0 {
		return time.Time{}
	}
	return time.Unix(latest, 0)
}
