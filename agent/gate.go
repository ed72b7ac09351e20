// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
)

// gate implements proxy.Gate: it ties connections to sessions, in the table and in the kernel. With a
// nil kernel (enforcement: userspace) only the table knows.
//
// For each session with an entry in the kernel there is one admission, whose lock puts in order what
// must not overtake each other: opening the entry, moving its deadline, tagging sockets, the end.
//
//	(none) --Register--> open --shut--> ended, forgotten
type gate struct {
	table  *session.Table
	kernel *bpf.Tagger
	clock  session.Clock
	// limits returns the service's own limit on a connection, zero for none, and whether payload
	// from the upstream counts as activity.
	limits func(service string) (maxDuration time.Duration, both bool)
	closed func(c *session.Connection, reason session.Reason, err error, ended *session.End)

	log  *slog.Logger
	lost func(session.ID)           // the kernel has no entry any more for a session that lives in the table
	may  func(service string) error // refuses where the cluster says so
	// stale reports whether policy was asked about a session's connections since one was allowed, which then was not among them.
	stale func(*session.Connection) bool
	heed  func() error              // takes note of what kill --local has ended, of which the kernel may know nothing
	cut   func(*session.Connection) // ends one connection of a session that goes on

	mu         sync.Mutex
	admissions map[uint64]*admission
	reasons    map[*session.Connection]session.Reason // why single connections are being cut
}

// admission is a session's entry in the kernel. Its lock is held across BPF system calls of a few
// microseconds, and holds up connections of the same session only.
type admission struct {
	mu    sync.Mutex
	open  bool // the kernel has the entry
	ended bool // final
}

func (g *gate) admission(number uint64) *admission {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.admissions[number]
	if a == nil {
		a = &admission{}
		g.admissions[number] = a
	}
	return a
}

// Register implements proxy.Gate.
func (g *gate) Register(c *session.Connection, client, upstream *net.TCPConn) (func(session.Reason, error), error) {
	if err := g.heed(); err != nil {
		return nil, refusal(err)
	}
	if err := g.may(c.Service); err != nil {
		return nil, err
	}
	maxDuration, both := g.limits(c.Service)
	c.Activity.Both = both
	if maxDuration > 0 {
		c.Deadline = g.clock.Boot().Add(maxDuration)
	}
	number, _, err := g.table.Attach(c)
	if err != nil {
		return nil, err
	}
	if g.stale(c) { // from now on it is among them
		g.table.Detach(c)
		return nil, session.ErrStale
	}
	if err := g.admit(number, c, client, upstream); err != nil {
		g.table.Detach(c)
		if errors.Is(err, bpf.ErrGone) {
			g.lost(c.Session())
		}
		return nil, refusal(err)
	}
	stop := g.limit(c, maxDuration)
	return func(reason session.Reason, err error) {
		stop()
		g.release(c, number, reason, err)
	}, nil
}

// limit ends the connection when the service's own limit is reached. The kernel's gate shuts then by
// itself; this is what makes both ends learn of it at once.
func (g *gate) limit(c *session.Connection, after time.Duration) (stop func()) {
	if after == 0 {
		return func() {}
	}
	timer := time.AfterFunc(after, func() {
		g.because(c, session.ReasonServiceLimit)
		g.cut(c)
	})
	return func() { timer.Stop() }
}

// keepalive is what a socket gets from user space alone: Tag sets it where there is a kernel to tag for.
var keepalive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// refusal keeps the reason of a session that has ended, and makes everything else a failed register.
func refusal(err error) error {
	var over *session.EndedError
	if errors.As(err, &over) {
		return over
	}
	return session.Refuse(session.ReasonRegister, err)
}

// admit brings the connection into the kernel: session entry, then both sockets.
func (g *gate) admit(number uint64, c *session.Connection, client, upstream *net.TCPConn) error {
	a := g.admission(number)
	a.mu.Lock()
	defer a.mu.Unlock()
	s, err := g.table.ByID(c.Session())
	if err != nil {
		return err
	}
	if a.ended {
		return errEndedMeanwhile
	}
	if g.kernel == nil {
		return errors.Join(client.SetKeepAliveConfig(keepalive), upstream.SetKeepAliveConfig(keepalive))
	}
	if a.open {
		err = g.kernel.Move(number, s.EndsAt())
	} else {
		err = g.kernel.Open(number, s.EndsAt(), bpf.Label{Session: s.ID, Subject: s.Identity.Subject})
	}
	if err != nil {
		return fmt.Errorf("session entry: %w", err)
	}
	a.open = true
	if c.Client, err = g.kernel.Tag(client, number, session.ClientLeg, c.Deadline); err != nil {
		return fmt.Errorf("tag client leg: %w", err)
	}
	if c.Upstream, err = g.kernel.Tag(upstream, number, session.UpstreamLeg, c.Deadline); err != nil {
		g.untag(c.Client)
		return fmt.Errorf("tag upstream leg: %w", err)
	}
	return nil
}

var errEndedMeanwhile = errors.New("the session ended meanwhile")

// release is called when both sockets are closed.
func (g *gate) release(c *session.Connection, number uint64, reason session.Reason, err error) {
	ended, _ := g.table.Detach(c)
	g.untag(c.Client)
	g.untag(c.Upstream)
	g.mu.Lock()
	if why, ok := g.reasons[c]; ok {
		reason = why
		delete(g.reasons, c)
	}
	g.mu.Unlock()
	if reason == session.ReasonDestroyed && ended == nil {
		ended = g.endedBeneath(c, number)
	}
	g.closed(c, reason, err, ended)
}

// because notes why a single connection is about to be cut.
func (g *gate) because(c *session.Connection, reason session.Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reasons == nil {
		g.reasons = map[*session.Connection]session.Reason{}
	}
	g.reasons[c] = reason
}

// endedBeneath finds out whether a socket was destroyed because somebody ended its session without
// asking us: then its entry in the kernel is gone. The session ends here too.
func (g *gate) endedBeneath(c *session.Connection, number uint64) *session.End {
	if g.kernel == nil {
		return nil
	}
	if _, err := g.kernel.Dropped(number); !errors.Is(err, bpf.ErrGone) {
		return nil
	}
	g.lost(c.Session())
	var over *session.EndedError
	if _, err := g.table.ByID(c.Session()); errors.As(err, &over) {
		return &over.End
	}
	return nil
}

// move brings a session's new end into the kernel. An error that says the entry is gone means
// that somebody ended the session beneath us (kill --local).
func (g *gate) move(id session.ID, number uint64) error {
	a := g.admission(number)
	a.mu.Lock()
	defer a.mu.Unlock()
	s, err := g.table.ByID(id)
	if err != nil || a.ended || !a.open || g.kernel == nil {
		return nil // it has ended: shut has the word
	}
	return g.kernel.Move(number, s.EndsAt())
}

// follow brings a takeover into the kernel: the number stays, and so does what is tagged with it; whose it is
// and when it ends changes. Errors as of move.
func (g *gate) follow(o session.Takeover) error {
	a := g.admission(o.Number)
	a.mu.Lock()
	if !a.ended && a.open && g.kernel != nil {
		if err := g.kernel.Relabel(o.Number, bpf.Label{Session: o.New.ID, Subject: o.New.Identity.Subject}); err != nil {
			a.mu.Unlock()
			return err
		}
	}
	a.mu.Unlock()
	return g.move(o.New.ID, o.Number)
}

// untag takes a socket that is closed off the kernel's books. The entry is only for people to read: a
// stale one is overwritten when its tuple is used again.
func (g *gate) untag(sock session.Socket) {
	if g.kernel == nil || sock.Cookie == 0 {
		return
	}
	if err := g.kernel.Release(sock); err != nil {
		g.log.Warn("socket stays on the books", "cookie", sock.Cookie, "error", err)
	}
}

// shut closes the gate on a session for good: no packet of payload passes when it returns, and no
// connection is admitted any more. It returns what the gate has dropped of it so far.
func (g *gate) shut(number uint64) (bpf.Dropped, error) {
	a := g.admission(number)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	g.mu.Lock()
	delete(g.admissions, number) // a late Register makes a new one, and finds the session ended in the table
	g.mu.Unlock()
	if !a.open || g.kernel == nil {
		return bpf.Dropped{}, nil
	}
	dropped, err := g.kernel.End(number)
	if errors.Is(err, bpf.ErrGone) {
		err = nil // somebody was faster: kill --local
	}
	return dropped, err
}
