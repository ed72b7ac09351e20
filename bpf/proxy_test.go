// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bpf

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// order is one line to the proxy, answer one line back.
type order struct {
	Do       string // a key of orders
	Network  string
	Addr     string
	MPTCP    bool
	Conn     int
	Number   uint64
	Leg      session.Leg
	Deadline session.Instant
	Bytes    int // or how many
}

type answer struct {
	Addr    string
	Conn    int
	Socket  session.Socket
	Sockets []session.Socket
	Bytes   int
	Dropped Dropped
	Stats   GateStats
	Err     string
	Kind    string // which sentinel Err is
}

type proxyState struct {
	tagger    *Tagger
	listeners []*net.TCPListener
	conns     []*net.TCPConn
	socks     []session.Socket
}

func proxyMain() error {
	files := make([]*os.File, 5)
	for i := range files {
		files[i] = os.NewFile(uintptr(3+i), "map")
	}
	tagger, err := NewTagger(files)
	if err != nil {
		return err
	}
	p := &proxyState{tagger: tagger}
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		a, err := p.do(o)
		if err != nil {
			a.Err = err.Error()
			for _, e := range []error{ErrGone, ErrNotGated, session.ErrTooMany, os.ErrExist, os.ErrDeadlineExceeded, unix.ECONNRESET, unix.ECONNABORTED, unix.EPERM} {
				if errors.Is(err, e) {
					a.Kind = e.Error()
				}
			}
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

func (p *proxyState) do(o order) (a answer, err error) {
	carryOut, ok := orders[o.Do]
	if !ok {
		return a, fmt.Errorf("unknown order %q", o.Do)
	}
	err = carryOut(p, o, &a)
	return a, err
}

func labelOf(n int) Label {
	return Label{Session: session.ID{byte(n)}, Subject: fmt.Sprintf("user%d", n)}
}

// orders are what a proxy can be told to do.
var orders = map[string]func(*proxyState, order, *answer) error{
	"listen": func(p *proxyState, o order, a *answer) error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(o.MPTCP)
		l, err := lc.Listen(context.Background(), o.Network, o.Addr)
		if err != nil {
			return err
		}
		p.listeners = append(p.listeners, l.(*net.TCPListener))
		a.Addr = l.Addr().String()
		return nil
	},
	"accept": func(p *proxyState, o order, a *answer) error {
		c, err := p.listeners[len(p.listeners)-1].AcceptTCP()
		return p.keep(c, err, a)
	},
	"dial": func(p *proxyState, o order, a *answer) error {
		d := net.Dialer{}
		d.SetMultipathTCP(false)
		c, err := d.Dial(o.Network, o.Addr)
		if err != nil {
			return err
		}
		return p.keep(c.(*net.TCPConn), nil, a)
	},
	"open": func(p *proxyState, o order, _ *answer) error {
		return p.tagger.Open(o.Number, o.Deadline, labelOf(int(o.Number)))
	},
	"move": func(p *proxyState, o order, _ *answer) error { return p.tagger.Move(o.Number, o.Deadline) },
	"end": func(p *proxyState, o order, a *answer) (err error) {
		a.Dropped, err = p.tagger.End(o.Number)
		return err
	},
	"dropped": func(p *proxyState, o order, a *answer) (err error) {
		a.Dropped, err = p.tagger.Dropped(o.Number)
		return err
	},
	"stats": func(p *proxyState, _ order, a *answer) (err error) {
		a.Stats, err = p.tagger.GateStats()
		return err
	},
	"selftest": func(p *proxyState, o order, _ *answer) error { return p.tagger.SelfTest(o.Number) },
	"tag": func(p *proxyState, o order, a *answer) (err error) {
		a.Socket, err = p.tagger.Tag(p.conns[o.Conn], o.Number, o.Leg, o.Deadline)
		p.socks[o.Conn] = a.Socket
		return err
	},
	"relabel": func(p *proxyState, o order, _ *answer) error { return p.tagger.Relabel(o.Number, labelOf(o.Bytes)) },
	"release": func(p *proxyState, o order, _ *answer) error { return p.tagger.Release(p.socks[o.Conn]) },
	"name": func(p *proxyState, o order, a *answer) error {
		return control(p.conns[o.Conn], func(fd int) (err error) {
			a.Socket, err = identify(fd, p.tagger.netns)
			return err
		})
	},
	"write": func(p *proxyState, o order, a *answer) (err error) {
		_ = p.conns[o.Conn].SetWriteDeadline(time.Now().Add(200 * time.Millisecond)) // the write says so
		a.Bytes, err = p.conns[o.Conn].Write(make([]byte, o.Bytes))
		return err
	},
	"read": func(p *proxyState, o order, a *answer) (err error) {
		_ = p.conns[o.Conn].SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // the read says so
		a.Bytes, err = p.conns[o.Conn].Read(make([]byte, o.Bytes))
		return err
	},
	"pump": func(p *proxyState, o order, _ *answer) error { // bytes are in flight from here on
		go func(c net.Conn) { _, _ = io.Copy(c, zeros{}) }(p.conns[o.Conn])
		return nil
	},
	"timeout": func(p *proxyState, o order, a *answer) (err error) {
		a.Bytes, err = userTimeout(p.conns[o.Conn])
		return err
	},
	"newmap": func(*proxyState, order, *answer) error { return tryCreateMap() },
	"acceptn": func(p *proxyState, o order, a *answer) (err error) {
		a.Sockets, err = p.acceptTagged(o)
		return err
	},
	"dialn":     func(p *proxyState, o order, _ *answer) error { return p.dialMany(o) },
	"closedead": func(p *proxyState, o order, _ *answer) error { p.closeDead(); return nil },
}

// keep gives a connection a handle.
func (p *proxyState) keep(c *net.TCPConn, err error, a *answer) error {
	if err != nil {
		return err
	}
	p.conns, p.socks = append(p.conns, c), append(p.socks, session.Socket{})
	a.Conn = len(p.conns) - 1
	return nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func userTimeout(c *net.TCPConn) (n int, err error) {
	err = control(c, func(fd int) (err error) {
		n, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		return err
	})
	return n, err
}
