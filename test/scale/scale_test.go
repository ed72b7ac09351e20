// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package scale measures a cluster of five real agents that share 100,000 sessions: what each costs in memory,
// what the nodes tell each other at rest and under activity, how long it takes a node to catch up, and how fast
// kills reach everybody. It prints figures and asserts none, but that every step comes to its end.
//
//	go test ./test/scale -run '^$' -bench Cluster -benchtime 1x -timeout 8m
package scale

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
)

var (
	nodes    = flag.Int("nodes", 5, "nodes of the cluster")
	sessions = flag.Int("sessions", 100_000, "sessions of all nodes together")
	streams  = flag.Int("streams", 200, "live connections of each node under activity")
	rest     = flag.Duration("rest", 20*time.Second, "how long a node is watched at rest")
)

const (
	limit       = 6 * time.Minute // for all of it
	lifetime    = 2 * time.Hour
	idleTimeout = 30 * time.Minute
)

// quiet makes an agent log little: what it logs is kept in memory. The last word counts.
var quiet = []string{"--log-level", "warn"}

// BenchmarkCluster is one run of all measurements, in an order in which each leaves what the next needs.
func BenchmarkCluster(b *testing.B) {
	if b.N != 1 {
		b.Fatal("run it with -benchtime 1x")
	}
	ctx, stop := context.WithTimeout(b.Context(), limit)
	defer stop()
	out := &table{began: time.Now()}
	defer out.print(os.Stdout) // of a run that fails, what it has measured
	r := &rig{b: b, ctx: ctx, out: out}
	r.Cluster = harness.StartCluster(b, harness.ClusterConfig{
		Nodes: *nodes, Before: echo(b), Args: quiet,
		Extra: fmt.Sprintf("sessions: {max: %d}", 2**sessions),
	})
	out.step("%d agents are a cluster", *nodes)
	r.measureRest("at rest, no session", *rest/2)
	empty := r.memories()
	r.measureSpread()
	r.measureRest("just after", *rest/4)
	r.settle()
	r.measureRest("at rest", *rest)
	r.measureMemory(empty)
	r.measureActivity()
	r.measureKills()
	r.measureGroupKill()
	r.measureRestart()
	r.measureRejoin()
}
