// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package zero shows that not one payload byte passes after a session's deadline: rounds of random
// traffic through the real agent, between two hosts of its own, in every state that the agent can be in
// when the deadline comes. Both ends stamp what they send, and every packet that leaves the agent's
// host is captured.
//
//	go test ./test/zero -v -count=1
//	go test ./test/zero -v -count=1 -batches 50 -seed 7
package zero

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"
)

var (
	batches = flag.Int("batches", 5, "how often 12 rounds are run in each of the 4 states of the agent")
	seed    = flag.Uint64("seed", 0, "what the random choices are made from; 0: another one each time")
)

// patience is how long things may take that are a matter of milliseconds on an idle machine.
const patience = 60 * time.Second

// parts are the batches of an iteration. Where nobody but the kernel, or the sweep, ends sessions, kills come apart:
// kill --local sweeps away whatever has ended, and would do their work.
var parts = []struct {
	state   state
	endings []ending
}{
	{running, endings},
	{stopped, []ending{explicit}},
	{stopped, []ending{absolute, idle}},
	{killed, endings},
	{frozen, []ending{explicit}},
	{frozen, []ending{absolute, idle}},
}

func TestZeroBytesAfterTheDeadline(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("repeat with: go test ./test/zero -v -count=1 -batches %d -seed %d", *batches, *seed)
	f := newFixture(t)
	rnd := rand.New(rand.NewPCG(*seed, 0))
	var all []result
	dropped := map[state]uint64{}
	for range *batches {
		for _, p := range parts {
			began := time.Now()
			results, drops := f.run(p.state, rnd.Uint64(), p.endings...)
			all = append(all, results...)
			dropped[p.state] += drops
			t.Logf("%s %v: %d rounds in %.1fs", p.state, p.endings, len(results), time.Since(began).Seconds())
		}
	}
	t.Logf("%d rounds, dropped by the gate: %v packets\n\n%s", len(all), dropped, table(all))
	if want := *batches * len(states) * len(endings) * len(transports) * len(families); len(all) < want*85/100 { // 204 of 240
		t.Errorf("only %d of %d rounds had their deadline in the state that they were meant for", len(all), want)
	}
}

// eventually waits until fn returns nil.
func eventually(t *testing.T, what string, fn func() error) {
	t.Helper()
	began := time.Now()
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Since(began) > patience {
			t.Fatalf("waited %v for %s: %v", patience, what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
