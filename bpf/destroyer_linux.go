// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Destroyer destroys TCP sockets of the network namespace it was made in, through netlink
// (SOCK_DESTROY, kernel 4.9 with CONFIG_INET_DIAG_DESTROY, CAP_NET_ADMIN).
//
// Requests go out in batches without asking for acknowledgements: the kernel carries them out
// before sendmsg returns and answers only those that fail, so silence is success, at half the
// cost. Every request names the socket's cookie. An MPTCP connection has several TCP sockets
// and cannot be destroyed by one request; Tag refuses those.
//
// Safe for concurrent use.
type Destroyer struct {
	mu  sync.Mutex // one batch at a time; fd, seq and the buffers belong to it
	fd  int
	seq uint32
	out []byte
	in  []byte
}

// batch is how many requests go out in one sendmsg: 36 KiB, and the answers fit the receive
// buffer also if every one fails.
const batch = 512

// NewDestroyer opens the netlink socket. Close it after use.
func NewDestroyer() (*Destroyer, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag socket: %w", err)
	}
	d := &Destroyer{fd: fd, out: make([]byte, 0, batch*requestLen), in: make([]byte, 64<<10)}
	for _, set := range []func() error{
		func() error { return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) },
		// Errors need not quote the request.
		func() error { return unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1) },
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) },
	} {
		if err := set(); err != nil {
			_ = unix.Close(fd) // nothing was sent yet
			return nil, hint("set up sock_diag socket", err)
		}
	}
	return d, nil
}

// Close closes the netlink socket.
func (d *Destroyer) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return unix.Close(d.fd)
}

// Destroy destroys each of socks and sets out[i] to what became of socks[i]: Destroyed, Gone, or
// Failed. len(out) must be len(socks). The error is about the requests as a whole; the outcomes
// of those not carried out are Failed.
func (d *Destroyer) Destroy(socks []session.Socket, out []Outcome) error {
	return d.request(sockDestroy, socks, out, func(r diagReply) Outcome {
		switch {
		case r.errno == 0:
			return Destroyed
		case r.errno == unix.ENOENT:
			return Gone
		}
		return Failed
	})
}

// Check looks each of socks up and sets out[i]: Untouched if it exists and was made in the cgroup
// with that ID, Refused if it was made elsewhere, Gone if there is none (a TIME_WAIT remnant
// counts as none), or Failed. Exact look-ups by tuple and cookie; about 2 us each.
func (d *Destroyer) Check(cgroupID uint64, socks []session.Socket, out []Outcome) error {
	return d.request(sockDiagByFamily, socks, out, func(r diagReply) Outcome {
		switch {
		case r.isSock && r.state == tcpTimeWait, r.errno == unix.ENOENT:
			return Gone
		case r.isSock && r.cgroup == cgroupID && cgroupID != 0:
			return Untouched
		case r.isSock:
			return Refused
		}
		return Failed
	})
}

func (d *Destroyer) request(kind uint16, socks []session.Socket, out []Outcome, outcome func(diagReply) Outcome) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range out {
		out[i] = Failed
	}
	for len(socks) > 0 {
		n := min(batch, len(socks))
		if err := d.batchLocked(kind, socks[:n], out[:n], outcome); err != nil {
			return err
		}
		socks, out = socks[n:], out[n:]
	}
	return nil
}

func (d *Destroyer) batchLocked(kind uint16, socks []session.Socket, out []Outcome, outcome func(diagReply) Outcome) error {
	first := d.seq + 1
	d.out = d.out[:0]
	for i, s := range socks {
		if s.Cookie == 0 || !s.Tuple.Local.IsValid() || !s.Tuple.Remote.IsValid() {
			return fmt.Errorf("socket %d of batch: no cookie or no addresses", i)
		}
		d.seq++
		d.out = appendRequest(d.out, kind, d.seq, s)
	}
	if err := unix.Sendto(d.fd, d.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return hint("send sock_diag requests", err)
	}
	if kind == sockDestroy {
		for i := range out {
			out[i] = Destroyed // unless an answer says otherwise
		}
	}
	if err := d.answersLocked(first, out, outcome); err != nil {
		for i := range out {
			out[i] = Failed
		}
		return err
	}
	return nil
}

// answersLocked reads what the kernel has answered; all of it is queued when sendmsg returns.
func (d *Destroyer) answersLocked(first uint32, out []Outcome, outcome func(diagReply) Outcome) error {
	for {
		n, _, err := unix.Recvfrom(d.fd, d.in, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		for b := d.in[:n]; len(b) > 0; {
			var r diagReply
			if r, b, err = nextReply(b); err != nil {
				return err
			}
			// Answers to an earlier batch that was given up are no concern of this one.
			if i := r.seq - first; i < uint32(len(out)) {
				out[i] = outcome(r)
			}
		}
	}
}
