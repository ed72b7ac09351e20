// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/test/harness"
)

// latencies are times from a kill to what a node did, by what it was.
type latencies map[string][]time.Duration

func (l latencies) add(what string, d time.Duration) { l[what] = append(l[what], d) }

func (l latencies) log(t *testing.T, loss int) {
	for _, what := range slices.Sorted(maps.Keys(l)) {
		all := l[what]
		slices.Sort(all)
		t.Logf("%2d%% loss, %-20s p50 %-9v p99 %-9v max %-9v of %d", loss, what, all[len(all)/2], all[len(all)*99/100], all[len(all)-1], len(all))
	}
}

// A kill at any node cuts the streams on all, with and without loss, and each node says what it did. A
// session made at one node is let in by all others at once.
func TestKillEverywhere(t *testing.T) {
	r := newRig(t, harness.ClusterConfig{Nodes: 5})
	for _, loss := range []int{0, 20} {
		t.Run(fmt.Sprintf("%d%% loss", loss), func(t *testing.T) {
			if err := r.Net.Lose(loss); err != nil {
				t.Fatal(err)
			}
			seen := latencies{}
			const rounds = 20
			for round := range rounds {
				maker, killer := r.nodes[round%5], r.nodes[(round+2)%5]
				_, creds := maker.CreateSession(t, fmt.Sprintf("user%d", round), time.Hour)
				streams := r.everywhere(t, creds, 5*time.Millisecond)
				began := hostclock.Clock{}.Boot()
				k, res := killer.KillJSON(t, "--subject", fmt.Sprintf("user%d", round))
				if res.Code != 0 || len(k.Nodes) != 5 {
					t.Fatalf("kill: status %d, %+v\n%s", res.Code, k.Nodes, res.Stderr)
				}
				for _, n := range k.Nodes {
					// Gone: the sweep of that second was first.
					if n.State != api.KillAcknowledged || n.Destroyed+n.Gone != 1 || n.Left != 0 || !n.Verified {
						t.Errorf("round %d: %+v", round, n)
					}
					if n.Name != killer.Name {
						seen.add("acknowledged", n.Acknowledged.Duration())
						seen.add("by "+r.place(n.Name), n.Acknowledged.Duration())
					}
				}
				for _, s := range streams {
					seen.add("stream ended", s.mustEnd(t).Sub(began)) // includes the start of the command
				}
				r.refused(t, creds)
			}
			seen.log(t, loss)
		})
	}
}

// Nodes that are killed or stopped in the middle of a kill: the others do their part, those are named, and
// do theirs when they are back.
func TestNodesFailDuringAKill(t *testing.T) {
	r := newRig(t, harness.ClusterConfig{Nodes: 5})
	for _, tt := range []struct {
		name string
		fail func(t *testing.T, n *node)
		back func(t *testing.T, n *node)
	}{
		{"both processes stopped", func(t *testing.T, n *node) {
			harness.Signal(t, n.EnforcerPID(), syscall.SIGSTOP)
			harness.Signal(t, n.ProxyPID(t), syscall.SIGSTOP)
		}, func(t *testing.T, n *node) {
			harness.Signal(t, n.EnforcerPID(), syscall.SIGCONT)
			harness.Signal(t, n.ProxyPID(t), syscall.SIGCONT)
		}},
		{"both processes killed", func(t *testing.T, n *node) {
			n.Kill(t)
		}, func(t *testing.T, n *node) {
			n.Run(t)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, creds := r.nodes[0].CreateSession(t, "alice", time.Hour)
			streams := r.everywhere(t, creds, 5*time.Millisecond)
			failing := r.nodes[3]
			tt.fail(t, failing)
			k, res := r.nodes[1].KillJSON(t, "--subject", "alice", "--wait", "2s")
			if res.Code != 3 || !strings.Contains(res.Stderr, failing.Name) {
				t.Errorf("status %d, want 3 and the name of the silent node:\n%s", res.Code, res.Stderr)
			}
			for _, n := range k.Nodes {
				if silent := n.State == api.KillSilent; silent != (n.Name == failing.Name) {
					t.Errorf("%+v", n)
				}
			}
			for _, s := range streams {
				if s.node != failing {
					s.mustEnd(t)
				}
			}
			began := time.Now()
			tt.back(t, failing)
			streams[3].mustEnd(t)
			t.Logf("the stream there ended %v after the node was back", time.Since(began).Round(time.Millisecond))
			r.whole(t)
			r.refused(t, creds)
		})
	}
}

// What was revoked stays revoked when all nodes are killed and start again at once.
func TestAllNodesRestart(t *testing.T) {
	r := newRig(t, harness.ClusterConfig{Nodes: 3})
	_, revoked := r.nodes[0].CreateSession(t, "alice", time.Hour)
	_, kept := r.nodes[1].CreateSession(t, "bob", time.Hour)
	streams := r.everywhere(t, revoked, 5*time.Millisecond)
	if _, res := r.nodes[2].KillJSON(t, "--subject", "alice"); res.Code != 0 {
		t.Fatalf("kill: %+v", res)
	}
	for _, s := range streams {
		s.mustEnd(t)
	}
	for _, n := range r.nodes {
		n.Kill(t)
	}
	for _, n := range r.nodes {
		n.Launch(t) // none is ready before it has heard from another
	}
	for _, n := range r.nodes {
		n.WaitReady(t)
	}
	r.whole(t)
	r.refused(t, revoked)
	for _, s := range r.everywhere(t, kept, 0) {
		_ = s.conn.Close()
	}
}

// A session that was made at one node, while it was cut off, dies by a kill of its subject at the others, and
// never lives at them.
func TestPartition(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		cut  time.Duration
	}{{"10 seconds", 10 * time.Second}, {"5 minutes", 5 * time.Minute}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			testPartition(t, tt.cut)
		})
	}
}

func testPartition(t *testing.T, cut time.Duration) {
	r := newRig(t, harness.ClusterConfig{Nodes: 5})
	_, creds := r.nodes[0].CreateSession(t, "alice", time.Hour)
	streams := r.everywhere(t, creds, 0)
	lost := r.nodes[4]
	// The client is on the same host as the agent: it stays connected.
	if err := r.Net.Cut(4); err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(cut)
	_, hidden := lost.CreateSession(t, "alice", time.Hour)
	_, res := r.nodes[1].KillJSON(t, "--subject", "alice", "--wait", "1s")
	if res.Code != 3 || !strings.Contains(res.Stderr, lost.Name) {
		t.Errorf("status %d, want 3 and the name of the node that is cut off:\n%s", res.Code, res.Stderr)
	}
	for _, s := range streams[:4] {
		s.mustEnd(t)
	}
	time.Sleep(time.Until(until)) // this long it is cut off
	if !streams[4].live() {
		t.Error("the node that is cut off has ended a session that it knows no end of")
	}
	mended := hostclock.Clock{}.Boot()
	if err := r.Net.Mend(4); err != nil {
		t.Fatal(err)
	}
	after := streams[4].mustEnd(t).Sub(mended)
	t.Logf("cut off for %v: the kill reached the node %v after it was mended", cut, after.Round(time.Millisecond))
	if after > 10*time.Second { // the figure is logged; this is no timing test
		t.Errorf("%v is no healing", after)
	}
	r.whole(t)
	r.refused(t, creds)
	r.refused(t, hidden)
}

// Deadlines fire together though wall clocks are hours apart.
func TestDeadlinesOfWrongClocks(t *testing.T) {
	offsets := []time.Duration{0, 2 * time.Hour, -2 * time.Hour, time.Hour, -90 * time.Minute}
	r := newRig(t, harness.ClusterConfig{Nodes: 5, Under: func(i int) []string {
		return []string{"/usr/bin/env", "CURFEW_TEST_WALL_OFFSET=" + offsets[i].String()}
	}})
	var spreads []time.Duration
	for maker := range r.nodes {
		const ttl = 3 * time.Second
		began := hostclock.Clock{}.Boot()
		_, creds := r.nodes[maker].CreateSession(t, fmt.Sprintf("user%d", maker), ttl)
		var ends []session.Instant
		for _, s := range r.everywhere(t, creds, time.Millisecond) {
			ends = append(ends, s.mustEnd(t))
		}
		first, last := slices.Min(ends), slices.Max(ends)
		if first < began.Add(ttl) {
			t.Errorf("a session of %v ended after %v", ttl, first.Sub(began))
		}
		spreads = append(spreads, last.Sub(first))
		if last.Sub(first) > time.Second { // hours would be a wall clock; the figure is below
			t.Errorf("made at node %d: ends are %v apart", maker, last.Sub(first))
		}
		r.refused(t, creds)
	}
	slices.Sort(spreads)
	t.Logf("five nodes, wall clocks up to 4 h apart: ends of a session are %v apart (median), %v (most)", spreads[2], spreads[4])
	if skews := r.nodes[0].events(t, api.EventClockSkew); len(skews) < 4 {
		t.Errorf("%d clock alarms at the first node, want one for each other: %+v", len(skews), skews)
	}
}

// A session that is used at one node does not end for idleness at the others, nor there; one that is used
// nowhere ends everywhere.
func TestIdleOverNodes(t *testing.T) {
	r := newRig(t, harness.ClusterConfig{Nodes: 3})
	const idle = 3 * time.Second
	_, creds := r.nodes[0].CreateSession(t, "alice", time.Hour, "--idle", idle.String())
	silent0, silent1 := r.nodes[0].mustOpen(t, creds, 0), r.nodes[1].mustOpen(t, creds, 0)
	busy := r.nodes[2].mustOpen(t, creds, 100*time.Millisecond)
	time.Sleep(4 * idle) // this long it is used at one node
	for _, s := range []*stream{silent0, silent1, busy} {
		if !s.live() {
			t.Fatalf("the stream at %s was cut while the session was used", s.node.Name)
		}
	}
	stopped := hostclock.Clock{}.Boot()
	_ = busy.conn.Close() // the session's last activity
	ends := []session.Instant{silent0.mustEnd(t), silent1.mustEnd(t)}
	for _, end := range ends {
		if d := end.Sub(stopped); d < idle/2 {
			t.Errorf("cut %v after the last use, idle timeout %v", d, idle)
		}
	}
	t.Logf("idle timeout %v: ended %v and %v after the last use", idle, ends[0].Sub(stopped).Round(time.Millisecond), ends[1].Sub(stopped).Round(time.Millisecond))
	r.refused(t, creds)
}
