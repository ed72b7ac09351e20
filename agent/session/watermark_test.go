// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A fault it keeps out: once the node was gone on which somebody had been killed, that person could not sign in
// any more where its clock was not known, until the file was deleted.
func TestWatermarkOfAClockThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, clock := newMistaken(t)
		before, after := recordOf(clock, 2, time.Hour, 0), recordOf(clock, 3, time.Hour, 0)
		time.Sleep(time.Second)
		h.RestoreWatermark(Watermark{Origin: Origin{Node: "gone", Boot: 9}, Before: 1 << 60, End: End{Reason: ReasonKilled}})
		h.merge(t, before)
		if _, err := h.ByID(before.ID); ReasonOf(err) != ReasonKilled {
			t.Errorf("who signed in before it was heard of, perhaps before it: %v", err)
		}
		who := Session{Key: Key{1}, Identity: Identity{Subject: "user"}}
		if _, err := h.Create(who, time.Hour); !errors.Is(err, ErrWatermark) {
			t.Errorf("at the same instant: %v", err)
		}
		time.Sleep(time.Second)
		if _, err := h.Create(who, time.Hour); err != nil {
			t.Errorf("who signs in later: %v", err)
		}
		after.Born = OriginTime(clock.Boot())
		h.merge(t, after)
		if _, err := h.ByID(after.ID); err != nil {
			t.Errorf("who signs in later, elsewhere: %v", err)
		}
	})
}

// A fault it keeps out: a node that is in no cluster read a watermark of its earlier boot as one of this boot.
func TestWatermarkOfAnEarlierBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		now := h.clock.Boot()
		h.RestoreWatermark(Watermark{Before: OriginTime(now.Add(100 * time.Hour)), Learned: now.Add(-time.Minute), End: End{Reason: ReasonKilled}})
		h.create(t, 1, time.Hour, 0)
	})
}
