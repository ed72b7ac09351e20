// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"math/rand/v2"
	"testing"

	"github.com/curfew-proxy/curfew/agent/session"
)

func TestAgenda(t *testing.T) {
	a := newAgenda()
	if p, next := a.take(1 << 40); p != nil || next != 0 {
		t.Fatalf("of an empty one: %v, %d", p, next)
	}
	due := map[*peer]session.Instant{}
	for range 100 {
		due[newPeer("n")] = session.Instant(1 + rand.IntN(50))
	}
	for p, at := range due { // the earliest counts, in whatever order they come
		a.add(p, at+session.Instant(rand.IntN(2)))
		a.add(p, at)
		a.add(p, at+session.Instant(rand.IntN(20)))
	}
	for last := session.Instant(0); len(due) > 0; {
		first := session.Instant(1 << 40)
		for _, at := range due {
			first = min(first, at)
		}
		if p, next := a.take(first - 1); p != nil || next != first {
			t.Fatalf("at %d: %v, next %d, want %d", first-1, p, next, first)
		}
		p, _ := a.take(first)
		if p == nil || due[p] != first || first < last {
			t.Fatalf("at %d: %v, which is due at %d", first, p, due[p])
		}
		delete(due, p)
		last = first
	}
	select {
	case <-a.wake:
	default:
		t.Error("nobody was woken")
	}
}
