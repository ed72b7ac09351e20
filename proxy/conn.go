// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// conn is one accepted connection on its way through the proxy:
//
//	                                     .------ changed ------.
//	                                     v                     |
//	accepted -> handshake -> session -> policy -> dial -> register -> relay -> end
//	    \___________\___________\__________\________\________\-> refused
//
// It is a stray until its session is found.
type conn struct {
	proxy  *Proxy
	id     uint64
	source netip.AddrPort
	client *net.TCPConn
	sock   *socket // client's

	// Set once each, by the goroutine that serves the connection.
	service  *service
	session  *session.Session
	plain    bool // the session was found without a key
	postgres bool // the client speaks PostgreSQL, and so can be told of a refusal in words
	stray    bool
	counted  bool // in service.active
	decision string
	since    session.Instant // when we began to look at what decision rests on; again where the gate says that it has changed
	record   *session.Connection

	relaying atomic.Pointer[session.Session] // session, once the connection is registered by key

	mu       sync.Mutex
	upstream *net.TCPConn // nil until dialled
	flow     *flow        // has taken over both sockets, or nil
	cancel   func()       // ends the dial under way, or nil
	cause    *cause       // why it was aborted, or nil
}

// cause is why a connection ends.
type cause struct {
	reason session.Reason
	err    error
}

var (
	errAborted = errors.New("aborted")

	causeDrain   = &cause{session.ReasonDrain, errAborted}
	causeAborted = &cause{session.ReasonDestroyed, errAborted}
)

// accepted takes over a connection that a listener accepted.
func (p *Proxy) accepted(tcp *net.TCPConn, b *binding) {
	c := &conn{proxy: p, id: p.lastID.Add(1), client: tcp, service: b.service, since: p.cfg.Clock.Boot()}
	c.source = tcp.RemoteAddr().(*net.TCPAddr).AddrPort()
	c.source = netip.AddrPortFrom(c.source.Addr().Unmap(), c.source.Port())
	p.live.add(c)
	if c.stray = p.strays.take(c.source.Addr()); !c.stray {
		c.refuse(nil, session.Refuse(session.ReasonTooMany, errors.New("unauthenticated connections")))
		return
	}
	// A goroutine for the way in: its stack, grown by the handshake, goes when the relay begins.
	go c.serve(b)
}

// serve is a connection's way to the relay.
func (c *conn) serve(b *binding) {
	client, err := c.authenticate(b)
	if client == nil && err == nil {
		return // the API has it
	}
	if err == nil {
		err = c.authorize()
	}
	var upstream leg
	if err == nil {
		upstream, err = c.dial()
	}
	var release func(session.Reason, error)
	if err == nil {
		release, err = c.admit()
	}
	if err != nil {
		c.refuse(client, err)
		return
	}
	if !c.plain {
		c.relaying.Store(c.session)
	}
	c.proxy.cfg.Observer.Relayed(Relayed{Connection: c.record, Session: *c.session, Plain: c.plain, Decision: c.decision})
	startRelay(c, client, upstream, release)
}

// authenticate makes the client's leg and finds the session. A leg beside an error can be told of
// it; no leg and no error: the connection is the API's.
func (c *conn) authenticate(b *binding) (client leg, err error) {
	if err := requireTCP(c.client); err != nil {
		return nil, session.Refuse(session.ReasonNotTCP, err)
	}
	if c.sock, err = newSocket(c.client); err != nil {
		return nil, err
	}
	if b.kind != plain {
		return c.handshake(b)
	}
	s, err := c.proxy.cfg.Sessions.ByAddr(c.source.Addr())
	if errors.Is(err, session.ErrUnknownKey) || errors.Is(err, session.ErrNotFound) {
		err = session.Refuse(session.ReasonBoundAddress, err)
	}
	if err != nil {
		return nil, err
	}
	c.session, c.plain = &s, true
	return &plainLeg{sock: c.sock}, nil
}

// authorize asks the policy and the service's limit.
func (c *conn) authorize() error {
	c.settle()
	if err := c.ask(); err != nil {
		return err
	}
	if c.counted = c.service.take(); !c.counted {
		return session.Refuse(session.ReasonTooMany, errors.New("connections of this service"))
	}
	return nil
}

func (c *conn) ask() (err error) {
	if c.decision, err = c.proxy.cfg.Policy.Authorize(*c.session, c.service.Name, c.source); err != nil {
		return orReason(session.ReasonDenied, err)
	}
	return nil
}

// attempts is how often a connection is registered whose grounds change all the time.
const attempts = 5

// admit registers the connection. Where the gate says that what it was allowed on has changed meanwhile, policy is asked again
// about what is known now.
func (c *conn) admit() (release func(session.Reason, error), err error) {
	for range attempts {
		if release, err = c.register(); !errors.Is(err, session.ErrStale) {
			return release, err
		}
		c.since = c.proxy.cfg.Clock.Boot()
		s, err := c.find()
		if err != nil {
			return nil, err
		}
		c.session = &s
		if err := c.ask(); err != nil {
			return nil, err
		}
	}
	return nil, session.Refuse(session.ReasonDenied, err)
}

// find returns the connection's session as it is now.
func (c *conn) find() (session.Session, error) {
	if c.session.Key.IsZero() {
		return c.proxy.cfg.Sessions.ByAddr(c.source.Addr())
	}
	return c.proxy.cfg.Sessions.ByKey(c.session.Key)
}

// register ties both sockets to the session, in the kernel.
func (c *conn) register() (func(session.Reason, error), error) {
	now := c.proxy.cfg.Clock
	c.record = session.NewConnection(c.session.ID)
	c.record.ID, c.record.Service, c.record.Source = c.id, c.service.Name, c.source
	c.record.Opened, c.record.Since = now.Wall(), c.since
	c.record.Abort = func() { c.abort(causeAborted) }
	if d := c.service.MaxDuration; d > 0 {
		c.record.Deadline = now.Boot().Add(d)
	}
	c.record.Activity.LastPayload = c.lastPayload
	release, err := c.proxy.cfg.Gate.Register(c.record, c.client, c.upstream)
	if err != nil && !errors.Is(err, session.ErrStale) {
		err = orReason(session.ReasonRegister, err)
	}
	return release, err
}

// orReason gives err the reason unless it carries one of its own.
func orReason(reason session.Reason, err error) error {
	if session.ReasonOf(err) == session.ReasonInternal {
		return session.Refuse(reason, err)
	}
	return err
}

// handOver gives an established connection without a service to the API.
func (c *conn) handOver(conn *tls.Conn) {
	c.leave()
	c.proxy.cfg.API(conn)
}

// farewell bounds how long a refused client is given to take note.
const farewell = time.Second

// refuse ends a connection that is not relayed: it tells the observer, the client where it can
// be told, and closes.
func (c *conn) refuse(client leg, err error) {
	c.mu.Lock()
	if c.cause != nil {
		err = session.Refuse(c.cause.reason, c.cause.err)
	}
	c.mu.Unlock()
	r := Refused{Source: c.source, Session: c.session, Reason: session.ReasonOf(err), Err: err, Decision: c.decision}
	if c.service != nil {
		r.Service = c.service.Name
	}
	c.proxy.cfg.Observer.Refused(r)
	if client != nil {
		c.setDeadline(time.Now().Add(farewell))
		if c.tell(client, r) == nil {
			linger(c.sock)
		}
	}
	c.close()
	c.leave()
}

// tell says why, in words where the protocol has some.
func (c *conn) tell(client leg, r Refused) error {
	if c.postgres && !c.plain {
		if err := writeBytes(client, postgresError(r)); err != nil {
			return err
		}
		return client.closeWrite()
	}
	if a, ok := client.(alerter); ok {
		return a.alert(alertFor(r.Reason, r.Err))
	}
	return client.closeWrite()
}

// linger reads until the peer closes or the deadline passes: to close a socket with unread input
// sends a reset, which overtakes what was written.
func linger(s *socket) {
	for {
		c, _, err := s.receive(nil)
		if err != nil {
			return
		}
		c.free()
	}
}

// setDeadline sets the deadline of the client's socket, unless the connection was aborted.
func (c *conn) setDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		_ = c.client.SetDeadline(t) // fails on a closed socket only
	}
}

// abort makes both sockets end with a reset, and whoever waits for them return. It does not
// block, and may be called at any time.
func (c *conn) abort(why *cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	c.cause = why
	if c.cancel != nil {
		c.cancel()
	}
	if c.flow != nil {
		c.flow.interrupt()
		return
	}
	reset(c.client)
	reset(c.upstream)
}

// reset makes a later Close send a reset, and I/O fail now. Errors mean a closed socket.
func reset(tcp *net.TCPConn) {
	if tcp != nil {
		_ = tcp.SetLinger(0)
		_ = tcp.SetDeadline(time.Unix(1, 0))
	}
}

// dialing returns the context of a dial, which abort cancels.
func (c *conn) dialing(timeout time.Duration) (context.Context, func()) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel = cancel; c.cause != nil {
		cancel()
	}
	return ctx, cancel
}

// dialled makes the upstream's socket part of the connection.
func (c *conn) dialled(tcp *net.TCPConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.upstream, c.cancel = tcp, nil; c.cause != nil {
		reset(tcp)
	}
}

func (c *conn) close() {
	c.client.Close()
	if c.upstream != nil {
		c.upstream.Close()
	}
}

// settle ends the connection's time as a stray.
func (c *conn) settle() {
	if c.stray {
		c.stray = false
		c.proxy.strays.give(c.source.Addr())
	}
}

// leave gives back all that the proxy counted for the connection.
func (c *conn) leave() {
	c.settle()
	if c.counted {
		c.counted = false
		c.service.give()
	}
	c.proxy.live.remove(c)
}
