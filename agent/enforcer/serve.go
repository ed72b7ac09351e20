// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
)

// server answers one proxy process. It reads a blocking descriptor on a thread of its own: as fast as
// the runtime's poller (16 us a round trip, either way), and no other thread has to be awake for it.
type server struct {
	fd     int
	killer *bpf.Killer // nil with Config.Userspace
	log    *slog.Logger

	started time.Time    // beat counts from here
	beat    atomic.Int64 // the last sign of life, in ns of the monotonic clock: suspend is no silence
	busy    atomic.Bool  // in a kill: messages wait
	sweep   chan<- struct{}
	events  chan<- event
	stopped <-chan struct{} // nobody receives events any more

	parts    map[uint32][]session.Socket // kills that are being received
	pending  int                         // sockets in parts
	in, out  []byte
	received message
}

// event is what the supervisor learns from the proxy's messages.
type event struct {
	typ    messageType // Ready, Status, Goodbye
	status string
}

// serve returns nil when the proxy closes its end, or an error if it breaks the protocol.
func (s *server) serve() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s.in, s.parts = make([]byte, maxMessage+1), map[uint32][]session.Socket{}
	for {
		n, err := unix.Read(s.fd, s.in)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n == 0 && err == nil || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		if err := s.received.decode(s.in[:n]); err != nil {
			return err
		}
		if err := s.handle(&s.received); err != nil {
			return err
		}
	}
}

func (s *server) handle(m *message) error {
	s.alive()
	switch m.typ {
	case typeHeartbeat:
	case typeKill:
		return s.receiveKill(m)
	case typeSweep:
		select {
		case s.sweep <- struct{}{}:
		default: // one is on its way
		}
	case typeReady, typeStatus, typeGoodbye:
		select {
		case s.events <- event{typ: m.typ, status: m.status}:
		case <-s.stopped:
		}
	default:
		return fmt.Errorf("message of type %d from the proxy", m.typ)
	}
	return nil
}

func (s *server) alive() { s.beat.Store(int64(time.Since(s.started))) }

// silence is how long nothing has been heard of the proxy. A kill under way holds heartbeats back.
func (s *server) silence() time.Duration {
	if s.busy.Load() {
		return 0
	}
	return time.Since(s.started) - time.Duration(s.beat.Load())
}

func (s *server) send(m *message) error {
	s.out = m.append(s.out[:0])
	err := unix.Sendto(s.fd, s.out, unix.MSG_NOSIGNAL, nil)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil // it has exited; the next read says so
	}
	return os.NewSyscallError("write", err)
}

// notify sends a message without a body from any goroutine, or reports that the proxy does not
// read.
func notify(fd int, typ messageType) error {
	return send(fd, &message{typ: typ})
}

func send(fd int, m *message) error {
	err := unix.Sendto(fd, m.append(nil), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
	return os.NewSyscallError("sendto", err)
}
