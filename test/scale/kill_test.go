// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scale

import (
	"fmt"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
)

const (
	kills    = 50
	patience = time.Minute // more than it takes: what takes longer is a fault
)

// measureKills kills sessions that have a connection at each node, one after the other, at each node in turn.
func (r *rig) measureKills() {
	r.b.Helper()
	var acked, proven []time.Duration
	for i := range kills {
		at := r.Nodes[i%len(r.Nodes)]
		id, cert, err := admit(r.ctx, at, fmt.Sprint("doomed-", i), nil)
		if err != nil {
			r.b.Fatal(err)
		}
		for _, n := range r.Nodes {
			c, err := dial(n, cert)
			if err != nil {
				r.b.Fatal(err)
			}
			defer c.Close()
		}
		began := time.Now()
		last := r.kill(i, api.KillRequest{Session: id.String()}, 1, len(r.Nodes))
		proven, acked = append(proven, time.Since(began)), append(acked, last)
	}
	r.out.add("kill 1 with a connection at each node: acknowledged by all, p50 / p99 / max", "%v", quantilesOf(acked))
	r.out.add("the same, from the client's call to the proof of all nodes", "%v", quantilesOf(proven))
}

// measureGroupKill kills a tenth of all sessions at once, by the group that their identities say.
func (r *rig) measureGroupKill() {
	r.b.Helper()
	r.killGroup(group, groupSize(), 0)
	r.waitKnown(r.Nodes...)
}

func (r *rig) killGroup(name string, sessions, connections int) {
	r.b.Helper()
	before, began := r.loads(), time.Now()
	last := r.kill(0, api.KillRequest{Group: name}, sessions, connections)
	took := time.Since(began)
	r.live -= sessions
	what := fmt.Sprintf("kill %d sessions with %d connections by group", sessions, connections)
	r.out.add(what+": acknowledged by all, proven", "%.2f s, %.2f s", last.Seconds(), took.Seconds())
	var cpu []float64
	for i, l := range r.loads() {
		cpu = append(cpu, (l.cpu-before[i].cpu)*1e6/float64(sessions))
	}
	r.out.add("CPU us a session killed, each node", "%s", each("%.0f", cpu))
}

// kill has a node kill, checks that all nodes have done it, and returns when the last acknowledged it.
func (r *rig) kill(at int, req api.KillRequest, sessions, connections int) (last time.Duration) {
	r.b.Helper()
	req.Patience = api.Seconds(patience)
	res, err := r.Nodes[at%len(r.Nodes)].Control.Kill(r.ctx, req)
	if err != nil {
		r.b.Fatal(err)
	}
	destroyed, gone := 0, 0
	for _, n := range res.Nodes {
		destroyed, gone = destroyed+n.Destroyed, gone+n.Gone
		last = max(last, n.Acknowledged.Duration())
		if n.State != api.KillAcknowledged || !n.Verified || n.Left > 0 {
			r.b.Errorf("kill: %+v", n)
		}
	}
	if len(res.Sessions) != sessions || destroyed+gone != connections || len(res.Nodes) != len(r.Nodes) {
		r.b.Errorf("killed %d sessions of %d, destroyed %d connections of %d (%d gone), at %d nodes", len(res.Sessions), sessions, destroyed, connections, gone, len(res.Nodes))
	}
	return last
}
