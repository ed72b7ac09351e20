// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// What is remembered of logout tokens is bounded, in number and in time.
func TestOnce(t *testing.T) {
	var o once
	now := time.Now()
	for i := range onceMax + 10 {
		if !o.admit(fmt.Sprint(i), now) {
			t.Fatalf("%d is new", i)
		}
	}
	if len(o.seen) > onceMax || len(o.fifo) != len(o.seen) {
		t.Errorf("%d are remembered, %d in order", len(o.seen), len(o.fifo))
	}
	if o.admit(fmt.Sprint(onceMax), now) {
		t.Error("one of a moment ago is admitted again")
	}
	if now = now.Add(logoutMaxAge + jose.Leeway + time.Second); !o.admit("x", now) || len(o.seen) != 1 || len(o.fifo) != 1 {
		t.Errorf("%d are remembered that are too old to come again", len(o.seen))
	}
	if o.again("x"); !o.admit("x", now) || o.admit("x", now) || len(o.fifo) != 1 {
		t.Errorf("one that was taken back: %d in order", len(o.fifo))
	}
}
