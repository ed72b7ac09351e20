// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/enforcer"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
)

// killers is how many endings are worked on at once: while the enforcer destroys the sockets of one,
// the request for the next is on its way.
const killers = 4

// terminator carries out the end of sessions: it shuts the gate, has every socket destroyed, checks, and
// forgets. Safe for concurrent use; Run must be running.
type terminator struct {
	gate  *gate
	clock session.Clock
	// destroy asks the enforcer to destroy sockets of a session and to look for what is left
	// (layer 1). Nil: enforcement in user space.
	destroy func(ctx context.Context, number uint64, sockets []session.Socket) (enforcer.Report, error)
	report  func(outcome)

	mu      sync.Mutex
	queue   []*termination
	ready   chan struct{} // has room for one: something is in queue
	pending map[uint64]*termination
}

// termination is the end of one session on its way.
type termination struct {
	session.Ending
	began   session.Instant // the deadline, or the call
	done    chan struct{}   // closed when outcome is set
	outcome outcome
}

// outcome is the proof of an end.
type outcome struct {
	Ending   session.Ending
	Result   map[*session.Connection]string // api.Outcome... of each connection
	Verified bool                           // the sockets were looked for afterwards and none was left
	Shut     session.Instant                // no payload passed from then on at the latest
	Late     time.Duration                  // from the deadline, or the call, to Shut
	Took     time.Duration                  // from the deadline, or the call, to verified
	Dropped  bpf.Dropped                    // by the gate, up to Shut
	Layers   []string                       // that took part
	Err      error
}

func newTerminator(g *gate, clock session.Clock) *terminator {
	return &terminator{gate: g, clock: clock, ready: make(chan struct{}, 1), pending: map[uint64]*termination{}}
}

// ended is session.TableConfig.OnEnd: it shuts the gate now and leaves the rest to Run.
func (t *terminator) ended(e session.Ending) {
	job := &termination{Ending: e, began: t.clock.Boot(), done: make(chan struct{})}
	if e.Session.Ended.Reason.Timeout() {
		job.began = e.Session.EndsAt()
	}
	out := &job.outcome
	out.Ending = e
	out.Dropped, out.Err = t.gate.shut(e.Number)
	out.Shut = t.clock.Boot()
	out.Late = out.Shut.Sub(job.began)
	t.mu.Lock()
	t.queue = append(t.queue, job)
	t.pending[e.Number] = job
	t.mu.Unlock()
	t.wake()
}

func (t *terminator) wake() {
	select {
	case t.ready <- struct{}{}:
	default:
	}
}

// wait returns the outcome of a session's end once it is known.
func (t *terminator) wait(ctx context.Context, number uint64) (outcome, error) {
	t.mu.Lock()
	job := t.pending[number]
	t.mu.Unlock()
	if job == nil {
		return outcome{}, errors.New("the end of this session is not under way")
	}
	select {
	case <-job.done:
		return job.outcome, nil
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	}
}

// Run works on endings until ctx is done.
func (t *terminator) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for range killers {
		group.Go(func() error {
			for {
				job := t.next()
				if job != nil {
					t.carryOut(ctx, job)
					continue
				}
				select {
				case <-t.ready:
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
	return group.Wait()
}

func (t *terminator) next() *termination {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		return nil
	}
	job := t.queue[0]
	t.queue[0] = nil
	t.queue = t.queue[1:]
	if len(t.queue) > 0 {
		t.wake() // for the other killers
	}
	return job
}

// lingering is how long an outcome can be asked for after it is known.
const lingering = time.Minute

func (t *terminator) carryOut(ctx context.Context, job *termination) {
	out := &job.outcome
	if t.destroy == nil {
		t.abort(job)
	} else {
		t.destroyAll(ctx, job)
	}
	out.Took = t.clock.Boot().Sub(job.began)
	t.report(*out)
	close(job.done)
	time.AfterFunc(lingering, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.pending, job.Number)
	})
}

// layerGate is how the gate is called among the layers that took part in an end.
const layerGate = "gate"

// destroyAll has both sockets of every connection destroyed, and notes what became of them. The
// gate is shut, so that no connection has been tagged since and the sockets are all there.
func (t *terminator) destroyAll(ctx context.Context, job *termination) {
	out := &job.outcome
	out.Layers = []string{layerGate}
	var sockets []session.Socket
	var owners []*session.Connection
	for _, c := range job.Conns {
		for _, sock := range []session.Socket{c.Client, c.Upstream} {
			if sock.Cookie != 0 { // else it was refused before it was tagged
				sockets, owners = append(sockets, sock), append(owners, c)
			}
		}
	}
	if len(sockets) == 0 {
		out.Verified = true
		return
	}
	report, err := t.destroy(ctx, job.Number, sockets)
	if err != nil {
		out.Err = errors.Join(out.Err, err)
		t.abort(job) // what user space can do; the sweep does the rest
		return
	}
	out.Layers = append(out.Layers, "destroy")
	out.Verified = report.Complete()
	out.Result = perConnection(owners, report.Outcomes)
}

// cut ends one connection of a session that goes on.
func (t *terminator) cut(ctx context.Context, c *session.Connection) error {
	if t.destroy == nil {
		c.Abort()
		return nil
	}
	report, err := t.destroy(ctx, 0, []session.Socket{c.Client, c.Upstream})
	if err != nil || !report.Complete() {
		c.Abort() // what user space can do
		return errors.Join(err, fmt.Errorf("sockets are left: %v", report.Outcomes))
	}
	return nil
}

// perConnection sums up the outcomes of two sockets: one that is left counts most, one that was
// destroyed more than one that was gone.
func perConnection(owners []*session.Connection, outcomes []bpf.Outcome) map[*session.Connection]string {
	result := make(map[*session.Connection]string, len(owners)/2)
	for i, c := range owners {
		switch have := result[c]; {
		case outcomes[i] != bpf.Destroyed && outcomes[i] != bpf.Gone:
			result[c] = api.OutcomeLeft
		case outcomes[i] == bpf.Destroyed && have != api.OutcomeLeft:
			result[c] = api.OutcomeDestroyed
		case have == "":
			result[c] = api.OutcomeGone
		}
	}
	return result
}

// abort resets connections from user space: nothing proves that it worked.
func (t *terminator) abort(job *termination) {
	out := &job.outcome
	out.Layers = append(out.Layers, "userspace")
	out.Result = make(map[*session.Connection]string, len(job.Conns))
	for _, c := range job.Conns {
		c.Abort()
		out.Result[c] = api.OutcomeDestroyed
	}
}
