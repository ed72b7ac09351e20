// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// SelfTest proves that the gate works on the sockets that this process makes: it relays a byte over
// loopback in a session of its own, ends that, and sees nothing pass in either direction any more.
// A proxy calls it before it is ready. The number must be unused, and is used up. Takes about 50 ms.
func (t *Tagger) SelfTest(number uint64) error {
	near, far, err := loopbackPair()
	if err != nil {
		return fmt.Errorf("self-test of the gate: %w", err)
	}
	defer abortAll(near, far)
	if err := t.selfTest(number, near, far); err != nil {
		return fmt.Errorf("self-test of the gate: %w", err)
	}
	return nil
}

func (t *Tagger) selfTest(number uint64, near, far *net.TCPConn) error {
	if err := t.Open(number, Now().Add(time.Minute), Label{Subject: "self-test"}); err != nil {
		return err
	}
	sock, err := t.Tag(near, number, session.ClientLeg, 0)
	if err != nil {
		_, _ = t.End(number) // err says what matters
		return err
	}
	defer func() { _ = t.Release(sock) }() // a stale entry harms nobody
	alive := errors.Join(pass(far, near, time.Second), pass(near, far, time.Second))
	before, err := t.GateStats()
	if _, endErr := t.End(number); errors.Join(alive, err, endErr) != nil {
		return errors.Join(alive, err, endErr)
	}
	if pass(far, near, 20*time.Millisecond) == nil || pass(near, far, 20*time.Millisecond) == nil {
		return errors.New("payload passes after the end of its session")
	}
	after, err := t.GateStats()
	if err != nil {
		return err
	}
	if after.NoSession < before.NoSession+2 {
		return errors.New("the gate has counted no drops")
	}
	return nil
}

// pass sends a byte from one end to the other, and waits for it.
func pass(from, to *net.TCPConn, patience time.Duration) error {
	if _, err := from.Write([]byte{1}); err != nil {
		return err
	}
	if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := to.Read(make([]byte, 1))
	return err
}

// loopbackPair makes a TCP connection of this process to itself; not an MPTCP one.
func loopbackPair() (near, far *net.TCPConn, err error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = l.Close() }()                                  // accepts no more
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(time.Second)) // of a live listener
	var d net.Dialer
	d.SetMultipathTCP(false)
	c, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	far = c.(*net.TCPConn)
	a, err := l.Accept()
	if err != nil {
		_ = far.Close() // nothing was sent
		return nil, nil, err
	}
	near = a.(*net.TCPConn)
	if near.RemoteAddr().String() != far.LocalAddr().String() {
		abortAll(near, far)
		return nil, nil, fmt.Errorf("a stranger connected: %w", os.ErrExist)
	}
	return near, far, nil
}

// abortAll closes connections with a reset, so that nothing of them lingers.
func abortAll(conns ...*net.TCPConn) {
	for _, c := range conns {
		_ = c.SetLinger(0) // it is being thrown away
		_ = c.Close()
	}
}
