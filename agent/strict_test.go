// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

func TestStrict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cuts []session.Reason
		changes := 0
		s := newStrict()
		s.after = func() time.Duration { return 10 * time.Second }
		s.services = func() []string { return []string{"db"} }
		s.cut = func(_ context.Context, services []string, why session.Reason) { cuts = append(cuts, why) }
		s.changed = func([]string) { changes++ }
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = s.Run(ctx) }()
		expect := func(what string, refused bool, cut, changed int) {
			t.Helper()
			synctest.Wait()
			if got := session.ReasonOf(s.admit("db")) == session.ReasonNoMajority && s.admit("db") != nil; got != refused {
				t.Errorf("%s: refused %v", what, got)
			}
			if s.admit("web") != nil {
				t.Errorf("%s: a service that is not strict is refused", what)
			}
			if len(cuts) != cut || changes != changed {
				t.Errorf("%s: %d cuts, %d changes", what, len(cuts), changes)
			}
		}
		expect("at the start", false, 0, 0)
		s.majority(false)
		time.Sleep(9 * time.Second)
		s.majority(false) // told twice: the time counts from the first
		expect("before the time is up", false, 0, 0)
		time.Sleep(1100 * time.Millisecond)
		expect("after it", true, 0, 1)
		time.Sleep(10 * time.Second)
		expect("after as long again", true, 1, 1)
		time.Sleep(time.Hour)
		s.majority(true)
		expect("with the majority back", false, 1, 2)
		s.majority(false)
		time.Sleep(9 * time.Second)
		s.majority(true)
		time.Sleep(time.Hour)
		expect("after a short loss", false, 1, 2)
		cancel()
		synctest.Wait()
	})
}
