// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"testing"

	"github.com/curfew-proxy/curfew/agent/session"
)

func TestChanges(t *testing.T) {
	var c changes
	one, other := session.ID{1}, session.ID{2}
	want := func(what string, id session.ID, at session.Instant, want bool) {
		t.Helper()
		if c.since(id, at) != want {
			t.Errorf("%s: %v", what, !want)
		}
	}
	want("nothing has changed", one, 1, false)
	c.note(10, one)
	want("allowed before", one, 9, true)
	want("allowed at that instant", one, 10, true)
	want("allowed afterwards", one, 11, false)
	want("another session", other, 9, false)
	c.note(8, one)
	want("an older change", one, 9, true)
	c.note(20)
	want("policy, for all", other, 20, true)
	want("afterwards", other, 21, false)
	c.note(15)
	want("an older policy", other, 20, true)
	for i := range changesKept + 1 {
		c.note(session.Instant(100+i), session.ID{9, byte(i), byte(i >> 8)})
	}
	if len(c.of) > changesKept {
		t.Errorf("%d are remembered", len(c.of))
	}
	want("more than are remembered: the first", session.ID{9, 0, 0}, 100, true)
	want("the last", session.ID{9, byte(changesKept & 0xff), byte(changesKept >> 8)}, 100+changesKept, true)
}
