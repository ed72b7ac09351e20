// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// flow is a relay without goroutines of its own, for two legs of which at least one is tls13Leg
// and the other may be plain. A loop calls it when one of its sockets has something to say:
//
//	reading --all sent--> reading
//	reading --dst takes no more--> sending: src is not read, the chunk is held
//	sending --dst took the rest--> reading
//	either  --src has ended, and all is sent--> done: dst was told
//
// each way on its own. When both ways are done, or anything fails, the flow closes its sockets.
// Between events an idle flow holds no buffer and no stack. All methods but interrupt belong to
// the loop, or to the one who starts the flow until the loop knows it.
type flow struct {
	*relay
	loop             *loop
	slot, generation int32
	ends             [2]flowEnd
	ways             [2]flowWay // by the end that they read

	mu     sync.Mutex // guards the descriptors against interrupt
	closed bool
}

// The ends of a flow.
const (
	clientEnd   = 0
	upstreamEnd = 1
)

// edge asks epoll to report each change once.
const edge = unix.EPOLLET & (1<<32 - 1)

// flowEnd is one socket. Its descriptor is known to the flow's epoll instance only: Go's poller
// would wake up for each packet too.
type flowEnd struct {
	fd   int
	mask uint32 // what epoll waits for
	leg  leg
	tls  *tls13Leg // leg, where it is one
}

// flowWay is one direction.
type flowWay struct {
	note  func(int)
	held  *chunk   // what rest is part of, or nil
	rest  [][]byte // not sent yet
	bulk  bool     // the last read brought much
	ended bool     // src will send no more
	done  bool     // and dst was told
}

// flows reports whether a flow can relay between two legs.
func flows(client, upstream leg) bool {
	known := func(l leg) (tls, ok bool) {
		switch l.(type) {
		case *tls13Leg:
			return true, true
		case *plainLeg:
			return false, true
		}
		return false, false
	}
	clientTLS, ok1 := known(client)
	upstreamTLS, ok2 := known(upstream)
	return ok1 && ok2 && (clientTLS || upstreamTLS)
}

// handle takes an event of one end.
func (f *flow) handle(i int, events uint32) {
	const trouble = unix.EPOLLERR | unix.EPOLLHUP
	in, out := &f.ways[i], &f.ways[1-i]
	var err error
	switch {
	case len(out.rest) > 0 && events&(unix.EPOLLOUT|trouble) != 0:
		err = f.flush(1 - i)
	case events&trouble != 0 && (in.ended || len(in.rest) > 0):
		err = f.socketError(i)
	}
	if err == nil && !in.ended && len(in.rest) == 0 && events&(unix.EPOLLIN|trouble) != 0 {
		err = f.read(i)
	}
	if err != nil {
		f.fail(err)
		return
	}
	f.finishIfDone()
	f.wait()
}

// socketError returns what the socket of an end that is not read or written has to report.
func (f *flow) socketError(i int) error {
	e := &f.ends[i]
	code, err := unix.GetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err != nil {
		return &legError{e.leg, socketOf(e.leg).opError("wait", err)}
	}
	return nil
}

// read moves one chunk from end i to the other.
func (f *flow) read(i int) error {
	e, w := &f.ends[i], &f.ways[i]
	c := getChunk(w.bulk)
	held := 0
	var n int
	var err error
	if e.tls != nil {
		held = copy(c.mem, e.tls.carry)
		n, err = retry(func() (int, error) { return unix.Read(e.fd, c.mem[held:]) })
	} else {
		bufs := c.scatter()
		n, err = retry(func() (int, error) { return unix.Readv(e.fd, bufs) })
	}
	switch {
	case err == unix.EAGAIN:
		c.free()
		return nil
	case err != nil:
		c.free()
		return &legError{e.leg, socketOf(e.leg).opError("read", err)}
	case n == 0 && held > 0:
		c.free()
		return &legError{e.leg, io.ErrUnexpectedEOF}
	}
	w.bulk = n >= maxPayload
	w.ended = n == 0
	if e.tls != nil && n > 0 {
		return f.decrypt(i, c, held+n)
	}
	c.scattered(n)
	return f.forward(i, c)
}

func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// decrypt forwards the payload of n bytes of records.
func (f *flow) decrypt(i int, c *chunk, n int) error {
	e := &f.ends[i]
	used, err := e.tls.open(c, n)
	e.tls.keep(c.mem[used:n])
	if err == io.EOF {
		f.ways[i].ended = true
	} else if err != nil {
		c.free()
		f.alert(i)
		return &legError{e.leg, err}
	}
	return f.forward(i, c)
}

// alert tells a TLS peer what was wrong with its records, if that can be done at once.
func (f *flow) alert(i int) {
	if record := f.ends[i].tls.lastWords(); record != nil && len(f.ways[1-i].rest) == 0 {
		_, _ = unix.Write(f.ends[i].fd, record) // best effort: the connection ends either way
	}
}

// forward sends a chunk that end i brought, and the end of the stream where it came.
func (f *flow) forward(i int, c *chunk) error {
	w, dst := &f.ways[i], &f.ends[1-i]
	if n := c.payload(); n > 0 {
		w.note(n)
	}
	switch {
	case dst.tls == nil:
		w.rest = c.gather()
	case w.ended:
		w.rest = dst.tls.seal(c, dst.tls.closing)
	default:
		w.rest = dst.tls.seal(c, nil)
	}
	w.held = c
	return f.flush(i)
}

// flush sends what way i holds, and passes the end on when there is no more.
func (f *flow) flush(i int) error {
	w, dst := &f.ways[i], &f.ends[1-i]
	for len(w.rest) > 0 {
		n, err := retry(func() (int, error) {
			if len(w.rest) == 1 {
				return unix.Write(dst.fd, w.rest[0])
			}
			return unix.Writev(dst.fd, w.rest[:min(len(w.rest), maxIovecs)])
		})
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return &legError{dst.leg, socketOf(dst.leg).opError("write", err)}
		}
		w.rest = consume(w.rest, n)
	}
	if w.held != nil {
		w.held.free()
		w.held, w.rest = nil, nil
	}
	if w.ended && !w.done {
		w.done = true
		f.because(&cause{reason: f.closedBy(f.ends[i].leg)})
		if err := unix.Shutdown(dst.fd, unix.SHUT_WR); err != nil {
			return &legError{dst.leg, socketOf(dst.leg).opError("shutdown", err)}
		}
	}
	return nil
}

// wanted is what epoll should wait for at end i. With nothing wanted, trouble is still reported,
// but once only: it may be there for as long as the other end stalls.
func (f *flow) wanted(i int) (mask uint32) {
	if w := &f.ways[i]; !w.ended && len(w.rest) == 0 {
		mask |= unix.EPOLLIN
	}
	if len(f.ways[1-i].rest) > 0 {
		mask |= unix.EPOLLOUT
	}
	if mask == 0 {
		return edge
	}
	return mask
}

// wait tells epoll what is wanted now.
func (f *flow) wait() {
	if f.closed {
		return
	}
	for i := range f.ends {
		if mask := f.wanted(i); mask != f.ends[i].mask {
			f.ends[i].mask = mask
			if err := f.loop.control(unix.EPOLL_CTL_MOD, f, i); err != nil {
				f.fail(err)
				return
			}
		}
	}
}

func (f *flow) finishIfDone() {
	if !f.closed && f.ways[clientEnd].done && f.ways[upstreamEnd].done {
		f.shut(false)
	}
}

// fail ends the flow with a reset to both ends.
func (f *flow) fail(err error) {
	f.because(f.causeOf(err))
	f.shut(true)
}

// shut closes both sockets and accounts for the connection.
func (f *flow) shut(reset bool) {
	f.mu.Lock()
	f.closed = true
	for i := range f.ends {
		if reset {
			_ = unix.SetsockoptLinger(f.ends[i].fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		unix.Close(f.ends[i].fd)
		if w := &f.ways[i]; w.held != nil {
			w.held.free()
			w.held, w.rest = nil, nil
		}
	}
	f.mu.Unlock()
	f.loop.remove(f)
	go f.finish() // the agent's part in it must not hold up other flows
}

// interrupt resets both sockets at once; the loop then finds them dead. It does not block, and
// may be called from any goroutine.
func (f *flow) interrupt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		for i := range f.ends {
			disconnect(f.ends[i].fd)
		}
	}
}

// disconnect aborts a TCP connection as connect(2) to AF_UNSPEC does: a reset is sent, and the
// socket reports an error.
func disconnect(fd int) {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec)) // ENOTCONN: it is over already
}
