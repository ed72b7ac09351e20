// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Tagger is the proxy's side of the maps: it registers sessions and tags sockets. It needs no
// privilege, only the descriptors it is made from (kernel 5.19). Safe for concurrent use.
//
// Session numbers must never be used twice in the life of the maps, also not after a restart of
// the proxy: count up from Now().
type Tagger struct {
	maps  curfewMaps
	netns uint64 // cookie of the network namespace that is enforced
}

// Label says whose session a number is, for people with no daemon to ask.
type Label struct {
	Session session.ID
	Subject string // cut at 127 bytes
}

// Dropped counts what the gate dropped of a session after a deadline.
type Dropped struct {
	Packets, Bytes uint64 // whole IP packets
}

// NewTagger makes a Tagger of the descriptors of Objects.Maps, in their order. It duplicates
// them; the caller keeps files.
func NewTagger(files []*os.File) (_ *Tagger, err error) {
	t := &Tagger{}
	slots := []struct {
		m          **ebpf.Map
		typ        ebpf.MapType
		key, value int
	}{
		{&t.maps.Sessions, ebpf.Hash, binarySize[uint64](), binarySize[curfewSession]()},
		{&t.maps.Socks, ebpf.SkStorage, binarySize[int32](), binarySize[curfewTag]()},
		{&t.maps.Conns, ebpf.Hash, binarySize[curfewTuple](), binarySize[curfewConn]()},
		{&t.maps.Labels, ebpf.Hash, binarySize[uint64](), binarySize[curfewLabel]()},
		{&t.maps.GateStats, ebpf.PerCPUArray, binarySize[uint32](), binarySize[uint64]()},
	}
	defer func() {
		if err != nil {
			_ = t.Close() // err says what matters
		}
	}()
	if len(files) != len(slots) {
		return nil, fmt.Errorf("map descriptors: have %d, want %d", len(files), len(slots))
	}
	for i, s := range slots {
		if *s.m, err = mapFromFile(files[i]); err != nil {
			return nil, fmt.Errorf("map descriptor %d: %w", i, err)
		}
		if m := *s.m; m.Type() != s.typ || int(m.KeySize()) != s.key || int(m.ValueSize()) != s.value {
			return nil, fmt.Errorf("map descriptor %d: is a %v, key %d, value %d; want %v, %d, %d",
				i, m.Type(), m.KeySize(), m.ValueSize(), s.typ, s.key, s.value)
		}
	}
	t.netns, err = ownNetnsCookie()
	return t, err
}

func mapFromFile(f *os.File) (*ebpf.Map, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return ebpf.NewMapFromFD(fd)
}

// Close releases the descriptors.
func (t *Tagger) Close() error { return t.maps.Close() }

// Open registers a session, not yet registered, that ends at deadline. Returns
// session.ErrTooMany if the map is full and os.ErrExist for a number in use.
func (t *Tagger) Open(number uint64, deadline session.Instant, label Label) error {
	if number == 0 || deadline <= 0 {
		return fmt.Errorf("open session %d: %w", number, unix.EINVAL)
	}
	l := newLabel(label)
	if err := t.maps.Labels.Update(&number, &l, ebpf.UpdateNoExist); err != nil {
		return fmt.Errorf("label session %d: %w", number, mapError(err))
	}
	s := curfewSession{DeadlineBootNs: uint64(deadline)}
	if err := t.maps.Sessions.Update(&number, &s, ebpf.UpdateNoExist); err != nil {
		_ = t.maps.Labels.Delete(&number) // err says what matters
		return fmt.Errorf("open session %d: %w", number, mapError(err))
	}
	return nil
}

// Move sets a session's deadline. Returns ErrGone if the session has ended, here or by
// break-glass, or if its deadline has passed: what has ended stays so.
func (t *Tagger) Move(number uint64, deadline session.Instant) error {
	s, err := t.live(number)
	if err != nil {
		return fmt.Errorf("move session %d: %w", number, err)
	}
	s.DeadlineBootNs = uint64(deadline)
	// UpdateExist: the kernel itself refuses to bring back what was deleted since.
	if err := t.maps.Sessions.Update(&number, &s, ebpf.UpdateExist); err != nil {
		return fmt.Errorf("move session %d: %w", number, mapError(err))
	}
	return nil
}

// Relabel says whose a session's number is from now on: that of a session that takes over the
// connections of another. Returns ErrGone as Move does.
func (t *Tagger) Relabel(number uint64, label Label) error {
	if _, err := t.live(number); err != nil {
		return fmt.Errorf("relabel session %d: %w", number, err)
	}
	l := newLabel(label)
	if err := t.maps.Labels.Update(&number, &l, ebpf.UpdateExist); err != nil {
		return fmt.Errorf("relabel session %d: %w", number, mapError(err))
	}
	return nil
}

func newLabel(label Label) curfewLabel {
	l := curfewLabel{SessionId: label.Session}
	copy(l.Subject[:len(l.Subject)-1], label.Subject)
	return l
}

// End shuts the gate on every socket of a session, for good, in one system call; it destroys
// none. It returns what the gate has dropped of it so far. ErrGone if it was ended before.
func (t *Tagger) End(number uint64) (Dropped, error) {
	var s curfewSession
	err := t.maps.Sessions.LookupAndDelete(&number, &s)
	if labelErr := t.maps.Labels.Delete(&number); err == nil && !errors.Is(labelErr, ebpf.ErrKeyNotExist) {
		err = labelErr
	}
	if err != nil {
		return Dropped{}, fmt.Errorf("end session %d: %w", number, mapError(err))
	}
	return Dropped{Packets: s.DroppedPackets, Bytes: s.DroppedBytes}, nil
}

// Dropped returns what the gate has dropped of a session, or ErrGone.
func (t *Tagger) Dropped(number uint64) (Dropped, error) {
	var s curfewSession
	if err := t.maps.Sessions.Lookup(&number, &s); err != nil {
		return Dropped{}, fmt.Errorf("session %d: %w", number, mapError(err))
	}
	return Dropped{Packets: s.DroppedPackets, Bytes: s.DroppedBytes}, nil
}

// live looks up a session that has not ended.
func (t *Tagger) live(number uint64) (s curfewSession, err error) {
	if err := t.maps.Sessions.Lookup(&number, &s); err != nil {
		return s, mapError(err)
	}
	if session.Instant(s.DeadlineBootNs) <= Now() {
		return s, ErrGone
	}
	return s, nil
}

// Tag makes conn a socket of a session: from here on it passes packets only until the session's
// deadline, or the connection's own if that is set and earlier. Call it before the first relayed
// byte, and close conn if it fails: a tag that is on already stays, so it fails shut. Returns ErrNotGated for a socket
// that the gate does not see, ErrGone if the session has ended, session.ErrTooMany if the map is
// full. Costs about 10 us.
func (t *Tagger) Tag(conn syscall.Conn, number uint64, leg session.Leg, deadline session.Instant) (session.Socket, error) {
	var sock session.Socket
	err := control(conn, func(fd int) (err error) {
		if sock, err = identify(fd, t.netns); err != nil {
			return err
		}
		sock.Leg = leg
		if err := relaxTimers(fd); err != nil {
			return err
		}
		if err := t.put(fd, curfewTag{Number: number, Leg: uint8(leg), DeadlineBootNs: uint64(deadline)}); err != nil {
			return err
		}
		// If it ended before this look, this finds out; if after, gate and sweep do.
		if _, err := t.live(number); err != nil {
			return err
		}
		return t.enter(sock, number)
	})
	if err != nil {
		return session.Socket{}, fmt.Errorf("tag %s socket for session %d: %w", leg, number, err)
	}
	return sock, nil
}

// put replaces the tag of a socket that `mark` has seen being made in the gated cgroup.
func (t *Tagger) put(fd int, tag curfewTag) error {
	key := int32(fd)
	err := t.maps.Socks.Update(&key, &tag, ebpf.UpdateExist)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("made outside the gated cgroup: %w", ErrNotGated)
	}
	return err
}

// enter puts a tagged socket on the books. A stale entry of the same tuple is of a socket that is
// gone: it is overwritten.
func (t *Tagger) enter(sock session.Socket, number uint64) error {
	key := t.key(sock)
	c := curfewConn{Number: number, Cookie: sock.Cookie, OpenedBootNs: uint64(Now()), Leg: uint8(sock.Leg)}
	return mapError(t.maps.Conns.Update(&key, &c, ebpf.UpdateAny))
}

// Release takes a socket that is being closed off the books. Its tag stays on it until the kernel
// frees it, so that what is still in its send buffer is gated, too.
func (t *Tagger) Release(sock session.Socket) error {
	key := t.key(sock)
	var c curfewConn
	err := t.maps.Conns.Lookup(&key, &c)
	if err == nil && c.Cookie == sock.Cookie { // else the tuple is another socket's by now
		err = t.maps.Conns.Delete(&key)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("release socket: %w", err)
	}
	return nil
}

func (t *Tagger) key(sock session.Socket) curfewTuple {
	return curfewTuple{
		LocalAddr: sock.Tuple.Local.Addr().As16(), LocalPort: sock.Tuple.Local.Port(),
		RemoteAddr: sock.Tuple.Remote.Addr().As16(), RemotePort: sock.Tuple.Remote.Port(),
		NetnsCookie: t.netns,
	}
}

// mapError gives the errors of a hash map their meaning here.
func mapError(err error) error {
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return ErrGone
	case errors.Is(err, ebpf.ErrKeyExist):
		return os.ErrExist
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("map is full: %w", session.ErrTooMany)
	}
	return err
}
