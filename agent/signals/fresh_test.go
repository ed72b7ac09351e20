// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"strings"
	"testing"
	"time"
)

// freshAlice is askAlice, for a fresh sign-in.
var freshAlice = strings.Replace(askAlice, "ask", "fresh", 1)

// A fresh sign-in is one since the event was issued, however late it comes; and that is asked for also if the message says something
// else besides.
func TestFreshSinceTheEvent(t *testing.T) {
	g := newRig(t)
	r := g.receiver(func(t *Transmitter) { t.CredentialChange = WantsFresh })
	claims := g.claims(revoked, alice(), nil)
	claims["events"].(object)[caepTypes+"credential-change"] = object{}
	issued := time.Now().Add(-3 * time.Hour).Truncate(time.Second)
	claims["iat"] = issued.Unix()
	if err := r.take(t.Context(), g.sign(claims), "test"); err != nil {
		t.Fatal(err)
	}
	if did := strings.Join(g.sessions.taken(), ", "); did != freshAlice || !g.sessions.since.Equal(issued) {
		t.Errorf("%s since %v, want %v", did, g.sessions.since, issued)
	}
}
