// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/curfew-proxy/curfew/agent/session"
)

// TestChangesOnTheWay: what changes while a connection is on its way is heeded: policy is asked again, about the session as
// it is then, and the log has the decision that was the last.
func TestChangesOnTheWay(t *testing.T) {
	always := func(n int) []func() { return slices.Repeat([]func(){func() {}}, n) }
	for name, tc := range map[string]struct {
		stale  func(*rig) []func()
		asked  int
		groups []string       // of the session, when policy was asked last
		want   session.Reason // of the refusal; empty: it is relayed
	}{
		"nothing": {func(*rig) []func() { return nil }, 1, nil, ""},
		"claims": {func(r *rig) []func() {
			return []func(){func() { s := r.sess; s.Identity.Groups = []string{"sales"}; r.byKey[s.Key] = s }}
		}, 2, []string{"sales"}, ""},
		"policy": {func(r *rig) []func() { return []func(){func() { r.deny = errors.New("not any more") }} }, 2, nil, session.ReasonDenied},
		"the session ends": {func(r *rig) []func() {
			return []func(){func() { r.ended[r.sess.Key] = &session.EndedError{End: session.End{Reason: session.ReasonKilled}} }}
		}, 1, nil, session.ReasonKilled},
		"much":         {func(*rig) []func() { return always(attempts - 1) }, attempts, nil, ""},
		"all the time": {func(*rig) []func() { return always(attempts) }, attempts + 1, nil, session.ReasonDenied},
	} {
		t.Run(name, func(t *testing.T) {
			r := echoRig(t, nil)
			r.mu.Lock()
			r.stale = tc.stale(r)
			r.mu.Unlock()
			c := r.dial("db")
			if tc.want == "" {
				roundTrip(t, c)
			}
			eventually(t, "it is decided", func() bool { refused, relayed, _ := r.events(); return len(refused)+len(relayed) > 0 })
			refused, relayed, _ := r.events()
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.asked) != tc.asked || !slices.Equal(r.asked[len(r.asked)-1].Identity.Groups, tc.groups) {
				t.Errorf("policy was asked about %+v", r.asked)
			}
			if tc.want != "" {
				if len(relayed) != 0 || refused[0].Reason != tc.want {
					t.Errorf("refused %+v, relayed %+v", refused, relayed)
				}
			} else if last := fmt.Sprint("decision ", tc.asked); len(relayed) != 1 || relayed[0].Decision != last || !slices.Equal(relayed[0].Session.Identity.Groups, tc.groups) {
				t.Errorf("relayed %+v, want %s", relayed, last)
			}
		})
	}
}
