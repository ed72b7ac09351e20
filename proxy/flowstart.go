// SPDX-License-Identifier: Apache-2.0

package proxy

import "golang.org/x/sys/unix"

// startFlow hands r to a loop. On error r still has its sockets.
func startFlow(l *loop, r *relay) error {
	f := &flow{relay: r, loop: l}
	f.ways[clientEnd].note = r.record.Activity.NoteClient
	f.ways[upstreamEnd].note = r.record.Activity.NoteUpstream
	if err := r.detach(f); err != nil {
		return err
	}
	l.reserve(f)
	f.begin()
	return nil
}

// detach moves both sockets from Go's poller to f.
func (c *conn) detach(f *flow) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return c.cause.err
	}
	for i, l := range []leg{f.clientLeg, f.upstreamLeg} {
		e := &f.ends[i]
		e.leg = l
		e.tls, _ = l.(*tls13Leg)
		var err error
		if e.fd, err = dup(l); err != nil {
			if i > 0 {
				unix.Close(f.ends[0].fd)
			}
			return err
		}
	}
	c.client.Close()
	c.upstream.Close()
	c.flow = f
	return nil
}

// dup returns another descriptor of l's socket.
func dup(l leg) (fd int, err error) {
	s := socketOf(l)
	cerr := s.raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if cerr != nil {
		return 0, cerr
	}
	return fd, err
}

func socketOf(l leg) *socket {
	switch l := l.(type) {
	case *tls13Leg:
		return l.sock
	case *plainLeg:
		return l.sock
	case *stdLeg:
		return l.in.sock
	}
	return nil
}

// begin relays what was read ahead, and waits for more.
func (f *flow) begin() {
	for i := range f.ends {
		if err := f.readAhead(i); err != nil {
			f.fail(err)
			return
		}
	}
	if f.finishIfDone(); f.closed {
		return
	}
	for i := range f.ends {
		// Until the loop knows the flow, events are dropped; so none may come once only.
		f.ends[i].mask = f.wanted(i) &^ edge
		if err := f.loop.control(unix.EPOLL_CTL_ADD, f, i); err != nil {
			f.fail(err)
			return
		}
	}
	f.loop.publish(f)
}

// readAhead relays the bytes that came before the flow began, where there are any.
func (f *flow) readAhead(i int) error {
	e := &f.ends[i]
	if e.tls != nil && len(e.tls.carry) > 0 {
		c := getChunk(false)
		return f.decrypt(i, c, copy(c.mem, e.tls.carry))
	}
	if p, ok := e.leg.(*plainLeg); ok && len(p.head) > 0 {
		c := getChunk(false)
		n := copy(c.mem[recordHeader:recordHeader+maxPayload], p.head)
		p.head = nil
		c.scattered(n)
		return f.forward(i, c)
	}
	return nil
}
