// SPDX-License-Identifier: Apache-2.0

package store

import (
	"testing"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Tokens and watermarks are there after a restart, until they were deleted; what was raised again in between stays.
func TestDeletionsAreSoonButSure(t *testing.T) {
	dir, clock := stateDir(t), newClock()
	s := open(t, dir, "boot", clock)
	w := session.Watermark{Issuer: "https://idp", SID: "one", Before: 5, End: session.End{Reason: session.ReasonProvider}}
	again := w
	again.SID, again.Before = "two", 6
	for _, id := range []session.ID{{1}, {2}} {
		if err := s.PutTokens(id, []byte{id[0]}); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range []session.Watermark{w, again} {
		if err := s.SaveWatermark(w); err != nil {
			t.Fatal(err)
		}
	}
	s.DeleteTokensSoon(session.ID{1})
	s.DeleteWatermarkSoon(w)
	again.Before = 4 // an earlier one of the same name
	s.DeleteWatermarkSoon(again)
	closeStore(t, s)
	s = open(t, dir, "boot", clock)
	defer closeStore(t, s)
	tokens, err := s.LoadTokens()
	if err != nil || len(tokens) != 1 || len(tokens[session.ID{2}]) != 1 {
		t.Errorf("tokens: %v, %v", tokens, err)
	}
	marks, err := s.LoadWatermarks()
	if err != nil || len(marks) != 1 || marks[0].SID != "two" || marks[0].Before != 6 {
		t.Errorf("watermarks: %+v, %v", marks, err)
	}
}
