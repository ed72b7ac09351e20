// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"io"
	"sync/atomic"
	"syscall"

	"github.com/curfew-proxy/curfew/agent/session"
)

// relay is a registered connection until both directions have ended. Where both legs allow it, a
// flow moves the payload; elsewhere one goroutine a direction does.
type relay struct {
	*conn
	clientLeg, upstreamLeg leg
	release                func(session.Reason, error)
	running                atomic.Int32
	end                    atomic.Pointer[cause] // why it ended, as far as the relay knows
}

// startRelay takes over the connection. It does not wait.
func startRelay(c *conn, client, upstream leg, release func(session.Reason, error)) {
	r := &relay{conn: c, clientLeg: client, upstreamLeg: upstream, release: release}
	if flows(client, upstream) && startFlow(c.proxy.loops[c.id%uint64(len(c.proxy.loops))], r) == nil {
		return
	}
	r.running.Store(2)
	go r.up()
	go r.down()
}

func (r *relay) up() {
	err := move(r.upstreamLeg, r.clientLeg, r.record.Activity.NoteClient)
	r.ended(r.clientLeg, r.upstreamLeg, err)
}

func (r *relay) down() {
	err := move(r.clientLeg, r.upstreamLeg, r.record.Activity.NoteUpstream)
	r.ended(r.upstreamLeg, r.clientLeg, err)
}

// move relays one direction until its end. Between two plain legs payload stays in the kernel.
func move(dst, src leg, note func(int)) error {
	from, ok := src.(*plainLeg)
	to, both := dst.(*plainLeg)
	if ok && both {
		return splice(to, from, note)
	}
	return pump(dst, src, note)
}

// ended accounts for one direction. A clean end is passed on as a half-close; anything else ends
// both directions with a reset.
func (r *relay) ended(src, dst leg, err error) {
	if err == io.EOF {
		r.because(&cause{reason: r.closedBy(src)})
		if cerr := dst.closeWrite(); cerr != nil {
			err = &legError{dst, cerr}
		}
	}
	if err != io.EOF {
		r.because(r.causeOf(err))
		r.abort(r.end.Load())
	}
	if r.running.Add(-1) == 0 {
		r.finish()
	}
}

func (r *relay) closedBy(l leg) session.Reason {
	if l == r.clientLeg {
		return session.ReasonClientClosed
	}
	return session.ReasonUpstreamClosed
}

func (r *relay) causeOf(err error) *cause {
	var at *legError
	switch {
	case errors.Is(err, syscall.ECONNABORTED):
		// What a socket says that was destroyed in the kernel; the session knows why.
		return &cause{session.ReasonDestroyed, err}
	case errors.As(err, &at) && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)):
		return &cause{r.closedBy(at.leg), err}
	}
	return &cause{session.ReasonRelayError, err}
}

// because records why the relay ends. The first cause counts, but a destroyed socket tells only
// one of the two that wait for it, and the other sees an ordinary end: it overrides.
func (r *relay) because(c *cause) {
	if !r.end.CompareAndSwap(nil, c) && c.reason == session.ReasonDestroyed {
		r.end.Store(c)
	}
}

// finish closes both sockets and accounts for the connection.
func (r *relay) finish() {
	end := r.end.Load()
	r.mu.Lock()
	if outside := r.cause; outside == causeAborted || outside == causeDrain {
		end = outside
	}
	r.mu.Unlock()
	limit := r.record.Deadline
	if end.reason == session.ReasonDestroyed && limit != 0 && r.proxy.cfg.Clock.Boot() >= limit {
		end = &cause{session.ReasonServiceLimit, end.err}
	}
	r.close()
	r.release(end.reason, end.err)
	r.leave()
}
