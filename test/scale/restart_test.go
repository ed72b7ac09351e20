// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scale

import (
	"fmt"
	"os"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
)

// measureRestart stops an agent and starts it again.
func (r *rig) measureRestart() {
	r.b.Helper()
	n := r.Nodes[len(r.Nodes)-2]
	n.Args = quiet
	began := time.Now()
	n.Stop(r.b)
	r.out.add("stop an agent that knows all", "%.1f s", time.Since(began).Seconds())
	r.start(n, "restart")
}

// measureRejoin has a node come back with nothing, and learn all from the others.
func (r *rig) measureRejoin() {
	r.b.Helper()
	n := r.Nodes[len(r.Nodes)-1]
	n.Stop(r.b)
	if err := os.RemoveAll(n.State()); err != nil {
		r.b.Fatal(err)
	}
	n.Args = append([]string{"--join", r.Token(r.b, "--replace")}, quiet...)
	before := wireOf(r.b, n.Host)
	r.start(n, "join again, empty")
	w := wireOf(r.b, n.Host).since(before)
	r.out.add("it received, sent", "%.1f MB, %.1f MB (%d bytes a session)", float64(w.inBytes)/1e6, float64(w.outBytes)/1e6, w.inBytes/int64(r.live))
}

// start starts an agent and waits until it is ready, and knows all sessions.
func (r *rig) start(n *harness.Node, what string) {
	r.b.Helper()
	began := time.Now()
	n.Launch(r.b)
	r.wait(n.Name+" to be ready", func() error {
		status, err := n.Control.Status(r.ctx)
		if err == nil && !status.Ready {
			err = fmt.Errorf("not ready: %v", status.Problems)
		}
		return err
	})
	ready := time.Since(began)
	r.waitKnown(n)
	r.out.add(what+": ready, knows all", "%.1f s, %.1f s (CPU %.1f s)", ready.Seconds(), time.Since(began).Seconds(), cpuOf(r.b, n.ProxyPID(r.b)))
	r.WaitWhole(r.b, r.Nodes...)
}
