// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket reads and writes a TCP connection with memory taken from the pools only once the
// kernel has something to read. One goroutine may read and one may write at the same time.
//
// The functions handed to RawConn do nothing but one system call on that very socket: Close
// waits for them, so a wait inside one of them would be for ever.
type socket struct {
	tcp *net.TCPConn
	raw syscall.RawConn

	reader struct {
		bulk  bool   // the last read brought much: take a large chunk
		head  []byte // what to place before the bytes read
		chunk *chunk
		n     int
		err   error
	}
	writer struct {
		bufs [][]byte
		err  error
	}
	// The method values below are made once, not once a call.
	receiveFn, scatterFn, sendFn func(fd uintptr) bool
}

func newSocket(tcp *net.TCPConn) (*socket, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{tcp: tcp, raw: raw}
	s.receiveFn, s.scatterFn, s.sendFn = s.tryReceive, s.tryScatter, s.trySend
	return s, nil
}

// receive waits for bytes and returns a chunk that begins with a copy of head, and the number of
// bytes in it, head's included. Returns io.EOF when the peer has shut down.
func (s *socket) receive(head []byte) (*chunk, int, error) {
	r := &s.reader
	r.head, r.chunk, r.n, r.err = head, nil, 0, nil
	if err := s.read(s.receiveFn); err != nil {
		return nil, 0, err
	}
	c, n := r.chunk, r.n+len(head)
	r.bulk = r.n >= maxPayload
	r.chunk, r.head = nil, nil
	return c, n, nil
}

// scatter waits for bytes and returns a chunk with its spans set to them.
func (s *socket) scatter() (*chunk, error) {
	r := &s.reader
	r.chunk, r.n, r.err = nil, 0, nil
	if err := s.read(s.scatterFn); err != nil {
		return nil, err
	}
	c := r.chunk
	c.scattered(r.n)
	r.bulk = r.n >= maxPayload
	r.chunk = nil
	return c, nil
}

// read runs try until it succeeds; on an error, the end of the stream included, no chunk is kept.
func (s *socket) read(try func(uintptr) bool) error {
	err := s.raw.Read(try)
	r := &s.reader
	if err == nil {
		err = r.err
	}
	if err == nil && r.n == 0 {
		err = io.EOF
	}
	if err != nil && r.chunk != nil {
		r.chunk.free()
		r.chunk = nil
	}
	return err
}

func (s *socket) tryReceive(fd uintptr) bool {
	r := &s.reader
	r.chunk = getChunk(r.bulk)
	held := copy(r.chunk.mem, r.head)
	for {
		r.n, r.err = unix.Read(int(fd), r.chunk.mem[held:])
		if r.err != unix.EINTR {
			return s.settled("read")
		}
	}
}

func (s *socket) tryScatter(fd uintptr) bool {
	r := &s.reader
	r.chunk = getChunk(r.bulk)
	bufs := r.chunk.scatter()
	for {
		if len(bufs) == 1 {
			r.n, r.err = unix.Read(int(fd), bufs[0])
		} else {
			r.n, r.err = unix.Readv(int(fd), bufs)
		}
		if r.err != unix.EINTR {
			return s.settled("readv")
		}
	}
}

// settled puts the chunk back where there was nothing to read, so that none is held in the wait.
func (s *socket) settled(op string) bool {
	r := &s.reader
	if r.err == unix.EAGAIN {
		r.chunk.free()
		r.chunk, r.n, r.err = nil, 0, nil
		return false
	}
	if r.err != nil {
		r.n, r.err = 0, s.opError(op, r.err)
	}
	return true
}

// send writes all of bufs, which it consumes.
func (s *socket) send(bufs ...[]byte) error {
	w := &s.writer
	w.bufs, w.err = bufs, nil
	err := s.raw.Write(s.sendFn)
	w.bufs = nil
	if err == nil {
		err = w.err
	}
	return err
}

func (s *socket) trySend(fd uintptr) bool {
	w := &s.writer
	for len(w.bufs) > 0 {
		var n int
		var err error
		if len(w.bufs) == 1 {
			n, err = unix.Write(int(fd), w.bufs[0])
		} else {
			n, err = unix.Writev(int(fd), w.bufs[:min(len(w.bufs), maxIovecs)])
		}
		switch err {
		case nil:
			w.bufs = consume(w.bufs, n)
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			w.err = s.opError("write", err)
			return true
		}
	}
	return true
}

// consume drops the first n bytes of bufs.
func consume(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n > 0 {
		bufs[0] = bufs[0][n:]
	}
	return bufs
}

func (s *socket) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: s.tcp.LocalAddr(), Addr: s.tcp.RemoteAddr(), Err: err}
}
