// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// pipe is the kernel's side of a splice. It is empty whenever it is in the pool.
type pipe struct{ r, w int }

// pipeSize is asked for each pipe; the kernel may refuse it to an unprivileged user who has many.
const pipeSize = 1 << 18

var pipes = sync.Pool{New: func() any { return nil }}

func getPipe() (*pipe, error) {
	if p, ok := pipes.Get().(*pipe); ok {
		return p, nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // the default serves too
	p := &pipe{fds[0], fds[1]}
	runtime.SetFinalizer(p, (*pipe).close) // the pool drops what is not used
	return p, nil
}

func (p *pipe) close() {
	runtime.SetFinalizer(p, nil)
	unix.Close(p.r)
	unix.Close(p.w)
}

// splicer moves payload between two sockets without copying it to user space. The pipe is held
// only while there is something in it.
type splicer struct {
	dst, src *socket
	pipe     *pipe
	n        int
	err      error
}

// splice is pump for two plain legs. It returns io.EOF at the end of src.
func splice(dst, src *plainLeg, note func(int)) error {
	for len(src.head) > 0 {
		head := src.head
		src.head = nil
		note(len(head))
		if err := dst.sock.send(head); err != nil {
			return &legError{dst, err}
		}
	}
	s := &splicer{dst: dst.sock, src: src.sock}
	for {
		if err := s.fill(); err != nil {
			if err == io.EOF {
				return err
			}
			return &legError{src, err}
		}
		note(s.n)
		if err := s.drain(); err != nil {
			s.pipe.close() // with payload in it
			return &legError{dst, err}
		}
		pipes.Put(s.pipe)
		s.pipe = nil
	}
}

const spliceFlags = unix.SPLICE_F_NONBLOCK | unix.SPLICE_F_MOVE

// fill waits for payload and takes it into a pipe.
func (s *splicer) fill() error {
	err := s.src.raw.Read(func(fd uintptr) bool {
		if s.pipe, s.err = getPipe(); s.err != nil {
			return true
		}
		s.n, s.err = spliceRetry(int(fd), s.pipe.w, pipeSize)
		if s.err != nil || s.n == 0 {
			pipes.Put(s.pipe)
			s.pipe = nil
		}
		return s.err != unix.EAGAIN
	})
	switch {
	case err != nil:
		return err
	case s.err != nil:
		return s.src.opError("splice", s.err)
	case s.n == 0:
		return io.EOF
	}
	return nil
}

// drain writes out what fill took in.
func (s *splicer) drain() error {
	err := s.dst.raw.Write(func(fd uintptr) bool {
		for s.n > 0 {
			n, err := spliceRetry(s.pipe.r, int(fd), s.n)
			if err == unix.EAGAIN {
				return false
			}
			if s.err = err; err != nil {
				return true
			}
			s.n -= n
		}
		return true
	})
	switch {
	case err != nil:
		return err
	case s.err != nil:
		return s.dst.opError("splice", s.err)
	}
	return nil
}

func spliceRetry(from, to, max int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, max, spliceFlags)
		if err != unix.EINTR {
			return int(max0(n)), err
		}
	}
}

func max0(n int64) int64 { return max(n, 0) }
