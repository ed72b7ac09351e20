// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scale

import (
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
)

// memories is the memory of all proxy processes.
func (r *rig) memories() []memory {
	r.b.Helper()
	var list []memory
	for _, n := range r.Nodes {
		list = append(list, memoryOf(r.b, n.ProxyPID(r.b)))
	}
	return list
}

// groupSize is how many sessions one order kills.
func groupSize() int { return *sessions / 10 }

// group is what their identities say.
const group = "tenth"

// measureSpread creates the sessions, the same number at each node, and waits until every node knows all.
func (r *rig) measureSpread() {
	r.b.Helper()
	before, began := r.loads(), time.Now()
	perNode := *sessions / *nodes
	r.create(perNode, func(i int, req *api.CreateSessionRequest) {
		if i < groupSize() / *nodes {
			req.Groups = []string{group}
		}
	})
	created := time.Since(began)
	r.out.add("create all, at all nodes in parallel", "%.1f s (%.0f a second)", created.Seconds(), float64(*sessions)/created.Seconds())
	r.waitKnown(r.Nodes...)
	r.out.add("from the first until every node knows all", "%.1f s", time.Since(began).Seconds())
	r.out.add("from the last until every node knows all", "%.1f s", (time.Since(began) - created).Seconds())
	var cpu []float64
	var sent []float64
	for i, l := range r.loads() {
		cpu = append(cpu, (l.cpu-before[i].cpu)*1e6/float64(*sessions))
		sent = append(sent, float64(l.wire.since(before[i].wire).outBytes)/float64(perNode))
	}
	r.out.add("meanwhile: CPU us a session known, each node", "%s", each("%.0f", cpu))
	r.out.add("bytes sent a session created, each node", "%s", each("%.0f", sent))
}

// measureMemory compares memory with that of the agents without sessions.
func (r *rig) measureMemory(empty []memory) {
	r.b.Helper()
	var before, rss, pss, anonymous []int64
	for i, m := range r.memories() {
		before = append(before, empty[i].rss>>20)
		rss = append(rss, (m.rss-empty[i].rss)/int64(r.live))
		pss = append(pss, (m.pss-empty[i].pss)/int64(r.live))
		anonymous = append(anonymous, (m.anonymous-empty[i].anonymous)/int64(r.live))
	}
	r.out.add("RSS without a session, MiB", "%s", each("%d", before))
	r.out.add("RSS, bytes a session", "%s", each("%d", rss))
	r.out.add("PSS, bytes a session", "%s", each("%d", pss))
	r.out.add("of which anonymous (not the session file)", "%s", each("%d", anonymous))
}

// measureRest watches all nodes for a while.
func (r *rig) measureRest(when string, long time.Duration) {
	r.b.Helper()
	before := r.loads()
	select {
	case <-time.After(long): // what is measured is a rate
	case <-r.ctx.Done():
		r.b.Fatalf("out of time %s", when)
	}
	var in, out, packets, cpu []float64
	for i, l := range r.loads() {
		seconds := l.at.Sub(before[i].at).Seconds()
		w := l.wire.since(before[i].wire)
		in = append(in, float64(w.inBytes)/seconds/1000)
		out = append(out, float64(w.outBytes)/seconds/1000)
		packets = append(packets, float64(w.outPackets)/seconds)
		cpu = append(cpu, (l.cpu-before[i].cpu)/seconds)
	}
	r.out.add(when+": kB/s received", "%s", each("%.1f", in))
	r.out.add(when+": kB/s sent", "%s", each("%.1f", out))
	r.out.add(when+": packets/s sent", "%s", each("%.0f", packets))
	r.out.add(when+": CPU s/s of the proxy process", "%s", each("%.3f", cpu))
}

// quietRate is how much a node sends, in kB/s, that has no news to tell, at most.
const quietRate = 20

// settle waits until the nodes have no news to tell each other any more: gossip goes on when all know all.
func (r *rig) settle() {
	r.b.Helper()
	began := time.Now()
	before := r.loads()
	for quiet := false; !quiet; {
		select {
		case <-time.After(time.Second): // what is looked at is a rate
		case <-r.ctx.Done():
			r.b.Fatal("out of time before the nodes were quiet")
		}
		now := r.loads()
		quiet = true
		for i, l := range now {
			rate := float64(l.wire.since(before[i].wire).outBytes) / l.at.Sub(before[i].at).Seconds() / 1000
			quiet = quiet && rate < quietRate
		}
		before = now
	}
	r.out.add("then until gossip has nothing to tell any more", "%.0f s", time.Since(began).Seconds())
}
