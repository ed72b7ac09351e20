// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/curfew-proxy/curfew/agent/api"
)

func publish(e *Events, n int) {
	for range n {
		e.Publish(api.Event{Type: api.EventSessionCreated})
	}
}

func TestReaderSeesAllInOrder(t *testing.T) {
	e := NewEvents(10)
	publish(e, 3)
	r := e.ReadFrom(0)
	publish(e, 4)
	evs, lost := r.Available()
	if len(evs) != 7 || lost != 0 {
		t.Fatalf("have %d events, %d lost; want 7 and 0", len(evs), lost)
	}
	for i, ev := range evs {
		if ev.Seq != uint64(i+1) {
			t.Errorf("event %d has seq %d", i, ev.Seq)
		}
	}
	if evs, lost := r.Available(); len(evs) != 0 || lost != 0 {
		t.Errorf("read again: %d events, %d lost", len(evs), lost)
	}
}

func TestSlowReaderIsToldWhatItLost(t *testing.T) {
	e := NewEvents(10)
	r := e.ReadFrom(0)
	publish(e, 25)
	evs, lost := r.Available()
	if lost != 15 || len(evs) != 10 || evs[0].Seq != 16 || evs[9].Seq != 25 {
		t.Fatalf("lost %d, have %d events %v; want 15 lost and 16 to 25", lost, len(evs), evs)
	}
}

func TestReadFrom(t *testing.T) {
	e := NewEvents(4)
	publish(e, 10) // 7 to 10 are held
	for _, tc := range []struct {
		after, first, lost uint64
	}{
		{0, 7, 0}, // whatever is held
		{8, 9, 0},
		{6, 7, 0},
		{2, 7, 4},   // 3 to 6 are missed
		{999, 7, 0}, // a number of an earlier run
	} {
		evs, lost := e.ReadFrom(tc.after).Available()
		if len(evs) == 0 || evs[0].Seq != tc.first || lost != tc.lost {
			t.Errorf("ReadFrom(%d): %v, %d lost; want from %d, %d lost", tc.after, evs, lost, tc.first, tc.lost)
		}
	}
	if evs, lost := e.ReadFrom(10).Available(); len(evs) != 0 || lost != 0 {
		t.Errorf("ReadFrom(10): %v, %d lost; want nothing", evs, lost)
	}
}

func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := NewEvents(4)
		ctx, cancel := context.WithCancel(t.Context())
		r := e.ReadFrom(0)
		got := make(chan uint64)
		go func() {
			defer close(got)
			for {
				evs, _, err := r.Next(ctx)
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Errorf("Next: %v", err)
					}
					return
				}
				got <- evs[0].Seq
			}
		}()
		synctest.Wait()
		publish(e, 1)
		if seq := <-got; seq != 1 {
			t.Errorf("seq %d, want 1", seq)
		}
		synctest.Wait()
		cancel()
		if _, open := <-got; open {
			t.Error("Next returned an event after the end")
		}
	})
}

// What a follower has and what it has lost must always add up to what was published.
func TestNothingIsLostSilently(t *testing.T) {
	const publishers, each = 4, 5000
	e := NewEvents(32)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var readers, writers sync.WaitGroup
	for i := range 3 {
		r := e.ReadFrom(0)
		readers.Go(func() {
			var seen, lost, last uint64
			for seen+lost < publishers*each {
				evs, l, err := r.Next(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				for _, ev := range evs {
					if ev.Seq <= last {
						t.Errorf("reader %d: seq %d after %d", i, ev.Seq, last)
					}
					last = ev.Seq
				}
				seen, lost = seen+uint64(len(evs)), lost+l
			}
			if last != publishers*each || seen+lost != publishers*each {
				t.Errorf("reader %d: %d seen, %d lost, last is %d", i, seen, lost, last)
			}
		})
	}
	for range publishers {
		writers.Go(func() { publish(e, each) })
	}
	writers.Wait()
	readers.Wait()
}

func BenchmarkPublish(b *testing.B) {
	for _, followers := range []int{0, 10} {
		b.Run("followers="+strconv.Itoa(followers), func(b *testing.B) {
			e := NewEvents(4096)
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			for range followers {
				r := e.ReadFrom(0)
				wg.Go(func() {
					for {
						if _, _, err := r.Next(ctx); err != nil {
							return
						}
					}
				})
			}
			b.ReportAllocs()
			for b.Loop() {
				e.Publish(api.Event{Type: api.EventSessionCreated})
			}
			cancel()
			wg.Wait()
		})
	}
}
