// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

const (
	us = int64(time.Microsecond)
	ms = int64(time.Millisecond)
	s  = int64(time.Second)
)

// remote is a clock that is behind ours by offset and drifts, at a rate that wanders within what is allowed.
type remote struct {
	rng    *rand.Rand
	ppm    int64 // at most, either way
	at     int64 // ours
	offset int64 // ours less the remote's, at that time
	rate   int64 // ppm, until the next change
}

// to goes on to an instant of our clock and returns the remote's reading.
func (r *remote) to(t int64) int64 {
	r.offset += (t - r.at) * r.rate / 1_000_000
	r.at = t
	if r.ppm > 0 && r.rng.IntN(4) == 0 {
		r.rate = r.rng.Int64N(2*r.ppm+1) - r.ppm
	}
	return t - r.offset
}

// Whatever the ways there and back take, however the clocks drift within 200 ppm: the truth is within the
// bound.
func TestErrorWithinBound(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		const start = 1000 * s
		r := &remote{rng: rng, ppm: 200, at: start, offset: rng.Int64N(2*start) - start}
		e := NewEstimator[int64]()
		now := start
		slow := 1 + rng.Int64N(50*ms)
		for range 200 {
			t1 := now
			there, served, back := rng.Int64N(slow), rng.Int64N(slow), rng.Int64N(slow)
			switch rng.IntN(4) { // all of it one way
			case 0:
				there = 0
			case 1:
				back = 0
			}
			t2 := r.to(t1 + there)
			t3 := r.to(t1 + there + served)
			t4 := t1 + there + served + back
			now = t4 + rng.Int64N(10*ms)
			r.to(now)
			e.Sample("peer", t1, t2, t3, t4, now)
			for range 3 {
				offset, bound, ok := e.Offset("peer", now)
				if off := (offset - time.Duration(r.offset)).Abs(); !ok || off > bound {
					t.Fatalf("seed %d: off by %v, bound %v, %v", seed, off, bound, ok)
				}
				now += rng.Int64N(20 * s)
				r.to(now)
			}
		}
	}
}

// The clock of a peer is known better than any single exchange with a busy network would tell.
func TestBestExchangeCounts(t *testing.T) {
	e := NewEstimator[int64]()
	now := 100 * s
	exchange := func(there, back int64) {
		t2 := now + there - 7*s
		e.Sample("peer", now, t2, t2, now+there+back, now+there+back)
		now += there + back
	}
	exchange(100*us, 100*us)
	for range 50 {
		exchange(9*ms, 1*ms) // off by 4 ms
		now += 100 * ms
	}
	offset, bound, _ := e.Offset("peer", now)
	if off := (offset - 7*time.Second).Abs(); off > 0 || bound > 1500*time.Microsecond {
		t.Errorf("off by %v, bound %v", off, bound)
	}
	now += 60 * s // the good one is worth less by now: 12 ms
	exchange(9*ms, 1*ms)
	offset, bound, _ = e.Offset("peer", now)
	if off := (offset - 7*time.Second).Abs(); off != 4*time.Millisecond || bound > 6*time.Millisecond {
		t.Errorf("after a minute: off by %v, bound %v", off, bound)
	}
}

func TestAnotherClock(t *testing.T) {
	sample := func(e *Estimator[int64], offset, trip, now int64) {
		t2 := now - trip/2 - offset
		e.Sample("peer", now-trip, t2, t2, now, now)
	}
	has := func(t *testing.T, e *Estimator[int64], now int64, want time.Duration) {
		t.Helper()
		offset, bound, ok := e.Offset("peer", now)
		if !ok || (offset-want).Abs() > bound {
			t.Errorf("%v within %v, %v; want %v", offset, bound, ok, want)
		}
	}
	t.Run("told", func(t *testing.T) {
		e := NewEstimator[int64]()
		e.Booted("peer", 1)
		sample(e, 50*s, 100*us, 100*s)
		e.Booted("peer", 1)
		has(t, e, 101*s, 50*time.Second)
		e.Booted("peer", 2)
		if _, _, ok := e.Offset("peer", 101*s); ok {
			t.Error("the offset of a boot that is over is still used")
		}
		sample(e, 101*s, 40*ms, 102*s)
		has(t, e, 102*s, 101*time.Second)
	})
	t.Run("not told", func(t *testing.T) {
		e := NewEstimator[int64]()
		sample(e, 50*s, 100*us, 100*s)
		sample(e, 90*s, 40*ms, 101*s) // much less sure, but the other cannot be
		has(t, e, 101*s, 90*time.Second)
		t1 := 99 * s // begun before the one that is believed: it was late
		e.Sample("peer", t1, t1-50*s, t1-50*s, t1+ms, 101*s)
		has(t, e, 101*s, 90*time.Second)
	})
	t.Run("boot after the first exchange", func(t *testing.T) {
		e := NewEstimator[int64]()
		sample(e, 50*s, 100*us, 100*s)
		e.Booted("peer", 1)
		has(t, e, 100*s, 50*time.Second)
	})
	t.Run("forgotten", func(t *testing.T) {
		e := NewEstimator[int64]()
		sample(e, 50*s, 100*us, 100*s)
		e.Forget("peer")
		if _, _, ok := e.Offset("peer", 100*s); ok {
			t.Error("the offset of a peer that is forgotten is still used")
		}
	})
}

func TestImpossibleExchanges(t *testing.T) {
	for name, x := range map[string][5]int64{
		"reply before request":      {2 * s, s, s, s, 2 * s},
		"peer's time runs back":     {s, 2 * s, s, 2 * s, 2 * s},
		"peer took longer than all": {s, s, 9 * s, 2 * s, 2 * s},
		"not over yet":              {s, s, s, 3 * s, 2 * s},
		"negative":                  {s, -1, 0, 2 * s, 2 * s},
		"absurd":                    {s, math.MaxInt64 - 1, math.MaxInt64, 2 * s, 2 * s},
		"absurd difference":         {s, 0, math.MaxInt64, 2 * s, 2 * s},
	} {
		e := NewEstimator[int64]()
		e.Sample("peer", x[0], x[1], x[2], x[3], x[4])
		if offset, bound, ok := e.Offset("peer", 3*s); ok {
			t.Errorf("%s: taken for %v within %v", name, offset, bound)
		}
	}
}

func TestListsAndBounds(t *testing.T) {
	e := NewEstimator[int64]()
	if _, ok := e.Worst(s); ok {
		t.Error("the worst of none")
	}
	e.Booted("told of", 1) // is not known
	for i := range int64(3) {
		e.Sample(fmt.Sprint("peer", i), s, s, s, s+(3-i)*ms, 2*s)
	}
	all := e.All(2 * s)
	if len(all) != 3 || all[0].Peer != "peer0" || all[0].RoundTrip != 3*time.Millisecond || all[0].Age != time.Second {
		t.Errorf("%+v", all)
	}
	if worst, ok := e.Worst(2 * s); !ok || worst != all[0] {
		t.Errorf("the worst is %+v", worst)
	}
	for i := range int64(2 * maxPeers) {
		e.Sample(fmt.Sprint("flood", i), s, s, s, s, s)
	}
	if n := len(e.All(2 * s)); n > maxPeers {
		t.Errorf("%d peers are remembered", n)
	}
}

// named stands for the type of readings that another package has.
type named int64

func TestReadingsOfAnotherType(t *testing.T) {
	e := NewEstimator[named]()
	e.Sample("peer", 1, 2, 3, 4, 5)
	if offset, _, ok := e.Offset("peer", named(5)); !ok || offset != 0 {
		t.Errorf("%v, %v", offset, ok)
	}
}

// Nothing that a peer makes up makes the arithmetic leave its range.
func FuzzSample(f *testing.F) {
	f.Add(int64(1), int64(2), int64(3), int64(4), int64(5))
	f.Add(int64(0), int64(math.MaxInt64), int64(math.MaxInt64), int64(0), int64(0))
	f.Add(int64(0), int64(0), int64(1<<60), int64(1<<60), int64(1<<60))
	f.Fuzz(func(t *testing.T, t1, t2, t3, t4, now int64) {
		e := NewEstimator[int64]()
		e.Sample("peer", t1, t2, t3, t4, now)
		offset, bound, ok := e.Offset("peer", now)
		if ok && (bound <= 0 || offset.Abs() > 1<<61) {
			t.Errorf("%v within %v", offset, bound)
		}
	})
}
