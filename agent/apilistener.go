// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// maxAPIConns bounds the connections to the sign-in API; each is a stranger's.
const maxAPIConns = 1024

// apiListener hands connections that the proxy accepted, and that ask for no service, to an HTTP server.
type apiListener struct {
	addr  net.Addr
	conns chan net.Conn
	slots chan struct{}

	once   sync.Once
	closed chan struct{}
}

func newAPIListener(addr net.Addr) *apiListener {
	return &apiListener{addr: addr, conns: make(chan net.Conn), slots: make(chan struct{}, maxAPIConns), closed: make(chan struct{})}
}

// take is proxy.Config.API. Beyond the limit connections are closed.
func (l *apiListener) take(c *tls.Conn) {
	select {
	case l.slots <- struct{}{}:
	default:
		_ = c.Close() // refused; nothing to be told to a peer that we have no room for
		return
	}
	select {
	case l.conns <- c:
	case <-l.closed:
		<-l.slots
		_ = c.Close() // we are going down
	}
}

// connState is http.Server.ConnState: it gives the slot of a connection back.
func (l *apiListener) connState(_ net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		<-l.slots
	}
}

// Accept implements net.Listener.
func (l *apiListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *apiListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *apiListener) Addr() net.Addr { return l.addr }
