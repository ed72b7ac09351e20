// SPDX-License-Identifier: Apache-2.0

//go:build linux

package zero

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"syscall"
	"time"

	"github.com/curfew-proxy/curfew/agent/control"
	"github.com/curfew-proxy/curfew/agent/session"
)

// tolerance is how far behind a deadline a packet may be captured that the gate let pass before it: between
// the gate and the capture the sender's thread can be preempted.
const tolerance = 2 * time.Millisecond

// settle is how long everybody goes on trying after the agent is back.
const settle = 200 * time.Millisecond

// result is what one round showed.
type result struct {
	class
	sent             int64           // bytes, by both ends, before the deadline
	late             int64           // bytes that were sent after it and arrived
	leaked           int             // bytes that left the agent's host after it
	chatter          int             // packets without payload, but no resets, that left after it
	newest           time.Duration   // from the deadline to the last packet with payload that left; mostly negative
	knocks           int             // packets with payload that came to the agent's host after it
	untold           int             // ends that had to send something to learn of it
	client, upstream []time.Duration // from the end to when it was seen: one or none
}

// check looks for what should not be, and keeps what the rounds showed.
func (b *batch) check() []result {
	b.t.Helper()
	b.probes.Wait()
	b.nothingLeft()
	time.Sleep(settle) // whoever still has something to send has tried
	for _, r := range b.rounds {
		b.finish(r)
	}
	b.capture.drained(b.t)
	var results []result
	for _, r := range b.rounds {
		res, err := r.judge(b.capture)
		if err != nil {
			b.t.Errorf("round %d (%v): %v", r.number, r.class, err)
		}
		if r.counts {
			results = append(results, res)
		}
	}
	return results
}

// finish lets both ends of a round come to theirs.
func (b *batch) finish(r *round) {
	b.t.Helper()
	r.settle(b)
	for name, e := range r.ends() {
		if e.nudged = r.mayBeUntold(e) && !e.over(); e.nudged {
			e.nudge()
		}
		select {
		case <-e.ended:
		case <-time.After(slack):
			b.t.Errorf("round %d (%v) has not ended for the %s", r.number, r.class, name)
		}
		e.stop()
	}
}

// settle says when the round's session ended, and whether that was in the state it was meant for.
func (r *round) settle(b *batch) {
	if r.ending != explicit {
		r.deadline = b.watch.of(r.id).Deadline
		r.since = r.deadline
	}
	r.counts = b.state == running || r.deadline > b.at
	if r.counts && b.state == killed {
		r.since = b.at // its sockets end with the process
	}
}

func (r *round) judge(c *capture) (result, error) {
	res := result{class: r.class, newest: nothing}
	var errs []error
	for _, l := range []*lane{r.client.out, r.upstream.out} {
		before, late, err := l.tally(r.deadline)
		res.sent += before
		res.late += late
		errs = append(errs, err)
	}
	if res.late > 0 {
		errs = append(errs, fmt.Errorf("%d bytes arrived that were sent after the deadline", res.late))
	}
	inFlight := map[string]bool{}
	for name, f := range map[string]flow{"client": r.flows[0], "upstream": r.flows[1]} {
		newest := res.packets(c.take(f), r.deadline)
		inFlight[name] = newest > -delayedAck || r.ends()[name].stallTo != 0
	}
	if res.leaked > 0 {
		errs = append(errs, fmt.Errorf("%d bytes left the host after the deadline, the last %v after it", res.leaked, res.newest))
	}
	if res.chatter > 0 && r.state != killed { // the sockets of a dead process may be in TIME_WAIT, which acknowledges
		errs = append(errs, fmt.Errorf("%d packets other than resets left the host after the deadline", res.chatter))
	}
	if res.newest == nothing {
		errs = append(errs, errors.New("the capture saw nothing of it"))
	}
	for name, e := range r.ends() {
		late := e.late(r.since)
		switch {
		case r.mayBeUntold(e) && inFlight[name] && (e.nudged || late > bounds[r.state]):
			res.untold++
		case late < 0 || late > bounds[r.state]:
			errs = append(errs, fmt.Errorf("the %s saw the end after %v: %v", name, late, e.err))
		case name == "client":
			res.client = append(res.client, late)
		default:
			res.upstream = append(res.upstream, late)
		}
		if r.state != killed && !errors.Is(e.err, syscall.ECONNRESET) && !errors.Is(e.err, io.EOF) && !errors.Is(e.err, io.ErrUnexpectedEOF) {
			errs = append(errs, fmt.Errorf("the %s saw %v", name, e.err))
		}
	}
	return res, errors.Join(errs...)
}

// nothing is the newest packet of none.
const nothing = -time.Hour

// delayedAck is more than the time until a receiver acknowledges what it has nothing to answer to.
const delayedAck = 300 * time.Millisecond

// packets looks at the packets of a flow. It returns how long after the deadline the last payload left.
func (res *result) packets(list []packet, deadline session.Instant) (newest time.Duration) {
	newest = nothing
	for _, p := range list {
		after := p.at.Sub(deadline)
		switch {
		case !p.out && p.payload > 0 && after > 0:
			res.knocks++
		case p.out && p.payload > 0:
			newest = max(newest, after)
			if after > tolerance {
				res.leaked += p.payload
			}
		case p.out && after > tolerance:
			res.chatter++
		}
	}
	res.newest = max(res.newest, newest)
	return newest
}

// nothingLeft checks that no socket of the batch is left, by the agent's books and by the kernel's.
func (b *batch) nothingLeft() {
	b.t.Helper()
	eventually(b.t, "the batch's sockets to be gone", func() error {
		for _, r := range b.rounds {
			list, err := b.agent.Control.Connections(b.t.Context(), control.ConnectionFilter{Session: r.id.String()})
			if err != nil || len(list) > 0 {
				return fmt.Errorf("connections of round %d: %+v, %w", r.number, list, err)
			}
		}
		list, err := sockets(b.agent.EnforcerPID())
		if err != nil {
			return err
		}
		for _, r := range b.rounds {
			for _, f := range r.flows {
				if list[f.ports()] {
					return fmt.Errorf("socket %v of round %d (%v) is left", f, r.number, r.class)
				}
			}
		}
		return nil
	})
	b.upstream.mu.Lock()
	defer b.upstream.mu.Unlock()
	if len(b.upstream.strays) > 0 {
		b.t.Errorf("the upstream was reached with ended sessions: rounds %v", b.upstream.strays)
	}
}

// quantile is the nearest-rank quantile of a list, which it sorts.
func quantile(list []time.Duration, q float64) time.Duration {
	slices.Sort(list)
	return list[int(math.Ceil(q*float64(len(list))))-1]
}
