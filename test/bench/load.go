// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// load says how much is done for one measurement.
type load struct {
	bulkMiB, requests, opened, idle int
}

var defaultLoad = load{bulkMiB: 1024, requests: 80_000, opened: 1500, idle: 1000}

const (
	requestSize  = 64
	requestConns = 32
	dialers      = 4
	pieceSize    = 64 << 10
)

// The upstream's protocol: a command byte and a 64-bit length.
const (
	cmdDown = 'D' // send so many bytes
	cmdUp   = 'U' // take so many bytes, then answer with one
	cmdEcho = 'E' // answer each message of so many bytes with itself
)

// upstream is the server behind all subjects.
type upstreamServer struct {
	l  net.Listener
	wg sync.WaitGroup
}

func startUpstream() (*upstreamServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstreamServer{l: l}
	u.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			u.wg.Go(func() {
				defer c.Close()
				_ = answer(c) // the client notices what goes wrong
			})
		}
	})
	return u, nil
}

func (u *upstreamServer) addr() string { return u.l.Addr().String() }

func (u *upstreamServer) close() {
	u.l.Close()
	u.wg.Wait()
}

func answer(c net.Conn) error {
	var head [9]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint64(head[1:]))
	switch head[0] {
	case cmdDown:
		return sendBytes(c, n)
	case cmdUp:
		if err := takeBytes(c, n); err != nil {
			return err
		}
		_, err := c.Write(head[:1])
		return err
	}
	msg := make([]byte, n)
	for {
		if _, err := io.ReadFull(c, msg); err != nil {
			return err
		}
		if _, err := c.Write(msg); err != nil {
			return err
		}
	}
}

func sendBytes(w io.Writer, n int64) error {
	piece := make([]byte, pieceSize)
	for n > 0 {
		m, err := w.Write(piece[:min(n, pieceSize)])
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}

func takeBytes(r io.Reader, n int64) error {
	piece := make([]byte, pieceSize)
	for n > 0 {
		m, err := r.Read(piece[:min(n, pieceSize)])
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}

// client connects to a subject.
type client struct {
	addr   string
	config *tls.Config
}

// open connects and sends a command.
func (c *client) open(cmd byte, n int64) (*tls.Conn, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", c.addr, c.config)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	head := binary.BigEndian.AppendUint64([]byte{cmd}, uint64(n))
	if _, err := conn.Write(head); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// openEcho opens a connection that has had one request answered.
func (c *client) openEcho() (*tls.Conn, error) {
	conn, err := c.open(cmdEcho, requestSize)
	if err != nil {
		return nil, err
	}
	if err := request(conn, make([]byte, requestSize)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func request(conn *tls.Conn, msg []byte) error {
	if _, err := conn.Write(msg); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, msg)
	return err
}

// once is a whole connection with one request.
func (c *client) once() error {
	conn, err := c.openEcho()
	if err != nil {
		return err
	}
	return conn.Close()
}

func (c *client) down(mib int) error {
	n := int64(mib) << 20
	conn, err := c.open(cmdDown, n)
	if err != nil {
		return err
	}
	defer conn.Close()
	return takeBytes(conn, n)
}

func (c *client) up(mib int) error {
	n := int64(mib) << 20
	conn, err := c.open(cmdUp, n)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := sendBytes(conn, n); err != nil {
		return err
	}
	return takeBytes(conn, 1)
}

// connections opens n connections and closes each after one request.
func (c *client) connections(n int) error {
	var g errgroup.Group
	for range dialers {
		g.Go(func() error {
			for range n / dialers {
				if err := c.once(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// requests sends n requests over all connections, one at a time on each, and returns how long
// each took, sorted.
func (c *client) requests(conns []*tls.Conn, n int) ([]time.Duration, error) {
	var g errgroup.Group
	took := make([][]time.Duration, len(conns))
	for i, conn := range conns {
		g.Go(func() error {
			msg := make([]byte, requestSize)
			for range n / len(conns) {
				start := time.Now()
				if err := request(conn, msg); err != nil {
					return err
				}
				took[i] = append(took[i], time.Since(start))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	return all, nil
}

// hold opens n connections and keeps them.
func (c *client) hold(n int) (conns []*tls.Conn, err error) {
	for range n {
		conn, err := c.openEcho()
		if err != nil {
			closeAll(conns)
			return nil, fmt.Errorf("after %d connections: %w", len(conns), err)
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func closeAll(conns []*tls.Conn) {
	for _, c := range conns {
		c.Close()
	}
}
