// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/agent/session"
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
	destroy func(ctx context.Context, number uint64, sockets []session.Socket) (destroyed, error)
	report  func(outcome)

	mu      sync.Mutex
	queue   []*termination
	ready   chan struct{} // has room for one: something is in queue
	pending map[uint64]*termination
}

// destroyed is what became of sockets, by cookie.
type destroyed struct {
	Destroyed, Gone, Left map[uint64]bool
}

// termination is the end of one session on its way.
type termination struct {
	session.Ending
	shut    time.Duration // from the deadline, or the call, to the gate being shut
	began   session.Instant
	done    chan struct{} // closed when outcome is set
	outcome outcome
}

// outcome is the proof of an end.
type outcome struct {
	Ending   session.Ending
	Result   map[*session.Connection]string // one of the outcomes below
	Verified bool                           // the sockets were listed afterwards and none was left
	Took     time.Duration                  // from the end to verified
	Late     time.Duration                  // from the deadline to the gate being shut, for timeouts
	Dropped  uint64                         // packets that the gate dropped
	Layers   []string
	Err      error
}

func newTerminator(g *gate, clock session.Clock) *terminator {
	return &terminator{gate: g, clock: clock, ready: make(chan struct{}, 1), pending: map[uint64]*termination{}}
}

// ended is session.TableConfig.OnEnd: it shuts the gate now and leaves the rest to Run.
func (t *terminator) ended(e session.Ending) {
	began := t.clock.Boot()
	job := &termination{Ending: e, began: began, done: make(chan struct{})}
	if err := t.gate.shut(e.Number); err != nil {
		job.outcome.Err = fmt.Errorf("shut the gate: %w", err)
	}
	if r := e.Session.Ended.Reason; r == session.ReasonAbsolute || r == session.ReasonIdle {
		job.began = e.Session.EndsAt()
		job.shut = t.clock.Boot().Sub(job.began)
	}
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
	out.Ending = job.Ending
	out.Late = job.shut
	if t.destroy == nil {
		t.abort(job)
	} else {
		t.destroyAll(ctx, job)
	}
	out.Took = t.clock.Boot().Sub(job.began)
	packets, _, err := t.gate.forget(job.Number)
	out.Dropped = packets
	out.Err = errors.Join(out.Err, err)
	t.report(*out)
	close(job.done)
	time.AfterFunc(lingering, func() {
		t.mu.Lock()
		delete(t.pending, job.Number)
		t.mu.Unlock()
	})
}

// abort is enforcement in user space: resets, unproven.
func (t *terminator) abort(job *termination) {
	out := &job.outcome
	out.Layers = []string{"userspace"}
	out.Result = map[*session.Connection]string{}
	for _, c := range job.Conns {
		c.Abort()
		out.Result[c] = outcomeDestroyed
	}
}
