// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kind says how a listener learns which service and which session a connection is for.
type kind uint8

const (
	dedicated kind = iota // TLS; one service
	shared                // TLS; SNI names the service
	plain                 // no TLS; one service, the source address names the session
)

// binding is what a listener is for; replaced as a whole by Update.
type binding struct {
	kind    kind
	service *service // nil for shared
}

// listener accepts plain TCP on one address.
type listener struct {
	*net.TCPListener
	bind  atomic.Pointer[binding]
	fault atomic.Pointer[error] // what keeps it from accepting now, for Health
	once  sync.Once
	done  chan struct{}
}

// listen opens addr, or adopts inherited where that is not nil. MPTCP is off: the gate does not
// see the payload of an MPTCP socket (its subflows are other sockets), and with it off an MPTCP
// client falls back to plain TCP by itself (RFC 8684, section 3.7). Keepalive is the Gate's.
func listen(addr string, inherited *net.TCPListener) (*listener, error) {
	tcp := inherited
	if tcp == nil {
		lc := net.ListenConfig{KeepAlive: -1}
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(context.Background(), "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		tcp = l.(*net.TCPListener)
	}
	if err := requireTCP(tcp); err != nil {
		tcp.Close()
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return &listener{TCPListener: tcp, done: make(chan struct{})}, nil
}

var errNotTCP = errors.New("the socket is not plain TCP (MPTCP?)")

// requireTCP returns errNotTCP if the socket's protocol is not TCP proper.
func requireTCP(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var proto int
	var serr error
	err = raw.Control(func(fd uintptr) {
		proto, serr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL)
	})
	if err := errors.Join(err, serr); err != nil {
		return fmt.Errorf("read SO_PROTOCOL: %w", err)
	}
	if proto != unix.IPPROTO_TCP {
		return errNotTCP
	}
	return nil
}

func (l *listener) close() {
	l.once.Do(func() {
		close(l.done)
		l.TCPListener.Close()
	})
}

// serve accepts until the listener is closed. No error ends it: a process out of descriptors
// gets some back, and a listener that gave up would be an outage.
func (l *listener) serve(log *slog.Logger, accepted func(*net.TCPConn, *binding)) {
	const first, most = 5 * time.Millisecond, time.Second
	delay := time.Duration(0)
	for {
		c, err := l.AcceptTCP()
		switch {
		case err == nil:
			if delay != 0 {
				delay = 0
				log.Info("accepting again", "address", l.Addr())
			}
			accepted(c, l.bind.Load())
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, syscall.ECONNABORTED): // that one client is gone
		default:
			if delay == 0 {
				delay = first
				log.Error("accept", "address", l.Addr(), "error", err)
			}
			l.fault.Store(&err)
			select {
			case <-time.After(delay):
			case <-l.done:
				return
			}
			delay = min(2*delay, most)
			l.fault.Store(nil) // the next accept may succeed by waiting, which says nothing
		}
	}
}
