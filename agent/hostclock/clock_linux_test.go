// SPDX-License-Identifier: Apache-2.0

package hostclock

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestAlarmNeverFiresEarly(t *testing.T) {
	a, err := NewAlarm()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, d := range []time.Duration{-time.Second, 0, 300 * time.Microsecond, 20 * time.Millisecond} {
		at := Clock{}.Boot().Add(d)
		a.Set(at)
		if err := a.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now := (Clock{}).Boot(); now < at {
			t.Errorf("woke %v early", at.Sub(now))
		}
	}
}

func TestAlarmSetWhileWaiting(t *testing.T) {
	a, err := NewAlarm()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	a.Set(Clock{}.Boot().Add(time.Hour))
	go a.Set(Clock{}.Boot().Add(10 * time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := a.Wait(ctx); err != nil {
		t.Fatalf("an alarm moved forward did not fire: %v", err)
	}
	a.Set(0)
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := a.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("disarmed alarm: %v", err)
	}
	at := Clock{}.Boot().Add(20 * time.Millisecond)
	a.Set(at)
	if err := a.Wait(t.Context()); err != nil {
		t.Fatalf("after a wait that was cancelled: %v", err)
	}
	if now := (Clock{}).Boot(); now < at {
		t.Fatalf("a wait that was cancelled made the next one return %v early", at.Sub(now))
	}
}

func BenchmarkBoot(b *testing.B) {
	for b.Loop() {
		_ = Clock{}.Boot()
	}
}

func BenchmarkCoarse(b *testing.B) {
	for b.Loop() {
		_ = Clock{}.Coarse()
	}
}

func TestCoarseFollowsBoot(t *testing.T) {
	for range 1000 {
		before := Clock{}.Boot()
		got := Clock{}.Coarse()
		after := Clock{}.Boot()
		// Behind: by what a preemption between the two readings of an anchor took.
		if got < before.Add(-time.Second) || got > after {
			t.Fatalf("coarse %d outside of %d..%d", got, before, after)
		}
	}
}
