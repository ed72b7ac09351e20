// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"fmt"
	"testing"
	"time"
)

// run asks a schedule for as long as given and returns when each peer was asked.
func run(sched *Schedule[int64], now *int64, length time.Duration) map[string][]int64 {
	asked := map[string][]int64{}
	for end := *now + int64(length); *now < end; {
		peer, wait := sched.Next(*now)
		if peer != "" {
			asked[peer] = append(asked[peer], *now)
		}
		*now += max(int64(wait), 10*us) // nobody is quicker than that
	}
	return asked
}

func peers(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprint("peer", i))
	}
	return names
}

func TestScheduleSpreads(t *testing.T) {
	for _, n := range []int{1, 2, 7, 50, 199} {
		var sched Schedule[int64]
		now := 100 * s
		began := now
		sched.Peers(peers(n), now)
		first := run(&sched, &now, 3*time.Second)
		for _, name := range peers(n) {
			times := first[name]
			if len(times) < burst {
				t.Fatalf("%d peers: %s was asked %d times when it was new", n, name, len(times))
			}
			if n <= 7 && times[burst-1]-began > 200*ms {
				t.Errorf("%d peers: %s's burst took until %v", n, name, time.Duration(times[burst-1]-began))
			}
		}
		steady := run(&sched, &now, time.Minute)
		total := 0
		for _, name := range peers(n) {
			times := steady[name]
			total += len(times)
			last := now - int64(time.Minute)
			for _, at := range append(times, now) {
				if gap := time.Duration(at - last); gap > time.Duration(n)*pace+2*pace {
					t.Fatalf("%d peers: %s was not asked for %v", n, name, gap)
				}
				last = at
			}
		}
		if total < 570 || total > 610 {
			t.Errorf("%d peers: %d exchanges in a minute", n, total)
		}
	}
}

func TestScheduleNewcomers(t *testing.T) {
	var sched Schedule[int64]
	now := 100 * s
	if peer, wait := sched.Next(now); peer != "" || wait <= 0 {
		t.Errorf("%q, %v of nobody", peer, wait)
	}
	sched.Peers(peers(5), now)
	run(&sched, &now, 10*time.Second)
	came := now
	sched.Peers(append(peers(3), "new", "new"), now)
	asked := run(&sched, &now, time.Second)
	if times := asked["new"]; len(times) < burst || times[0] > came+5*ms || times[burst-1] > came+200*ms {
		t.Errorf("the new one, that came at %d, was asked at %v", came, times)
	}
	if len(asked["peer4"]) != 0 || len(asked["peer0"]) == 0 {
		t.Errorf("asked %v", asked)
	}
	again := now
	sched.Again("peer1", now)
	if times := run(&sched, &now, 250*time.Millisecond)["peer1"]; len(times) < burst || times[burst-1] > again+200*ms {
		t.Errorf("again, at %d: %v", again, times)
	}
}

// Who was not called for an hour does not ask ten thousand times at once.
func TestScheduleSleeps(t *testing.T) {
	var sched Schedule[int64]
	now := 100 * s
	sched.Peers(peers(3), now)
	run(&sched, &now, 2*time.Second)
	now += 3600 * s
	total := 0
	for _, times := range run(&sched, &now, time.Second) {
		total += len(times)
	}
	if total > 12 {
		t.Errorf("%d exchanges in the second after", total)
	}
}
