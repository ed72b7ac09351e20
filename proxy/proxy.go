// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/curfew-proxy/curfew/agent/session"
	"golang.org/x/sync/errgroup"
)

// Sessions finds the session that a connection belongs to. Errors: session.ErrUnknownKey,
// *session.EndedError, or a *session.Refusal that carries its own reason.
// Implementations are safe for concurrent use and do not block on the network.
type Sessions interface {
	ByKey(session.Key) (session.Session, error)
	ByAddr(netip.Addr) (session.Session, error)
}

// Policy says whether a session may use a service. Any error denies. Decision is how somebody else's log calls what was
// decided there, or empty; it may be known beside an error. Authorize may wait, for a bounded time.
type Policy interface {
	Authorize(s session.Session, service string, source netip.AddrPort) (decision string, err error)
}

// Gate ties both sockets of a connection to its session in the kernel. On error nothing stays
// registered; with session.ErrStale policy has to be asked again first. It fills in c's Client and Upstream sockets and its Activity.Wake, and sets the
// keepalive of both sockets. It may use client and upstream until it returns, and keeps neither:
// the sockets live on, the objects may not. The proxy calls release exactly once, when the relay
// has ended and both sockets are closed; reason session.ReasonDestroyed means that somebody else
// ended it.
type Gate interface {
	Register(c *session.Connection, client, upstream *net.TCPConn) (release func(session.Reason, error), err error)
}

// Observer logs and counts. Calls are made on the goroutine of the connection: do not block.
type Observer interface {
	// Refused is called exactly once for each connection that is not relayed.
	Refused(Refused)
	// Relayed is called once for each connection that is, after it was registered.
	Relayed(Relayed)
}

// Refused describes a connection that was turned away.
type Refused struct {
	Service string // empty where it never became known
	Source  netip.AddrPort
	Session *session.Session // nil where none was found
	Reason  session.Reason
	Err     error
	// Decision is the policy's: see Policy.
	Decision string
}

// Relayed describes a connection that is let through.
type Relayed struct {
	Connection *session.Connection
	Session    session.Session
	// Plain is set where the client proved nothing but its source address (or, for a cleartext
	// PostgreSQL CancelRequest, shares it with a live connection of the session).
	Plain    bool
	Decision string // the policy's: see Policy
}

// Config is all that a Proxy needs. Sessions, Policy, Gate, Observer and Certificate are required.
type Config struct {
	Services []Service
	// Gateway lists the addresses of the shared port, where SNI chooses the service.
	Gateway []string
	// API takes over connections to the gateway that name no service, with the client's
	// certificate optional and unverified. It owns the connection. Nil: they are refused.
	API func(*tls.Conn)

	Sessions Sessions
	Policy   Policy
	Gate     Gate
	Observer Observer
	// Certificate returns the certificate that the proxy shows to clients.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Clock dates connections and their service limits.
	Clock session.Clock

	// Inherited are listeners opened elsewhere, inside the gated cgroup. A configured address
	// equal to the address of one uses it. The Proxy owns them; the unused are closed.
	Inherited []*net.TCPListener
	Limits    Limits
	Logger    *slog.Logger
}

func (c *Config) validate() error {
	switch {
	case c.Sessions == nil, c.Policy == nil, c.Gate == nil, c.Observer == nil:
		return errors.New("proxy config: Sessions, Policy, Gate and Observer are required")
	case c.Certificate == nil:
		return errors.New("proxy config: Certificate is required")
	case c.Clock == nil:
		return errors.New("proxy config: Clock is required")
	}
	return nil
}

// Proxy accepts, authenticates, authorises, dials, registers and relays.
//
//	New (listeners open) -> Run (serving) -> Drain (listeners closed, relays go on) -> Run returns
//
// All methods are safe for concurrent use.
type Proxy struct {
	cfg    Config
	log    *slog.Logger
	strays *strays
	live   registry
	loops  []*loop
	lastID atomic.Uint64

	routes atomic.Pointer[routes]

	mu        sync.Mutex
	listeners map[string]*listener // by configured address
	inherited map[string]*net.TCPListener
	counts    map[string]*atomic.Int64 // relayed connections by service, kept across updates
	group     *errgroup.Group          // nil unless running
	closed    bool
}

// New validates c and opens all listeners. The caller must call Run or Close.
func New(c Config) (*Proxy, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Limits.setDefaults()
	p := &Proxy{
		cfg:       c,
		log:       c.Logger,
		strays:    newStrays(c.Limits.Unauthenticated, c.Limits.UnauthenticatedPerSource),
		listeners: make(map[string]*listener),
		inherited: make(map[string]*net.TCPListener),
		counts:    make(map[string]*atomic.Int64),
	}
	for _, l := range c.Inherited {
		p.inherited[l.Addr().String()] = l
	}
	err := p.openLoops()
	if err == nil {
		err = p.Update(c.Services)
	}
	p.mu.Lock()
	for _, l := range p.inherited {
		l.Close()
	}
	p.inherited = nil
	p.mu.Unlock()
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// openLoops makes a loop for each processor that Go uses but one, which handshakes have. More loops
// wake each other up more often, and fewer events are there for each to find.
func (p *Proxy) openLoops() error {
	for range max(1, runtime.GOMAXPROCS(0)-1) {
		l, err := newLoop()
		if err != nil {
			return err
		}
		p.loops = append(p.loops, l)
	}
	return nil
}

func (p *Proxy) closeLoops() {
	for _, l := range p.loops {
		l.stop()
	}
}

// Run serves until ctx is done, then resets what is still alive, waits for every goroutine and
// returns nil. To end gently, call Drain first.
func (p *Proxy) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	p.mu.Lock()
	if p.group != nil || p.closed {
		p.mu.Unlock()
		return errors.New("proxy: Run called twice or after Close")
	}
	p.group = group
	for _, l := range p.listeners {
		p.startLocked(l)
	}
	p.mu.Unlock()

	var loops sync.WaitGroup
	for _, l := range p.loops {
		loops.Go(l.run)
	}
	group.Go(func() error {
		<-ctx.Done()
		p.Close()
		return nil
	})
	err := group.Wait()
	p.live.abortAll()
	_ = p.live.waitEmpty(context.Background()) // cannot fail without a deadline
	p.closeLoops()
	loops.Wait()
	return err
}

// Update replaces the services. Listeners whose address stays wanted stay open, and live
// connections are not touched: they keep the service they were admitted to. On error nothing
// has changed.
func (p *Proxy) Update(services []Service) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	r, bindings, err := p.planLocked(services)
	if err != nil {
		return err
	}
	opened, err := p.openLocked(bindings)
	if err != nil {
		return err
	}
	p.routes.Store(r)
	for addr, l := range p.listeners {
		if b, wanted := bindings[addr]; wanted {
			l.bind.Store(b)
		} else {
			l.close()
			delete(p.listeners, addr)
		}
	}
	for addr, l := range opened {
		p.listeners[addr] = l
		if p.group != nil {
			p.startLocked(l)
		}
	}
	return nil
}

// planLocked turns services into routes and the bindings wanted for each address.
func (p *Proxy) planLocked(services []Service) (*routes, map[string]*binding, error) {
	r := &routes{services: make(map[string]*service, len(services)), api: p.cfg.API != nil}
	bindings := make(map[string]*binding)
	bind := func(addr string, b *binding) error {
		if _, taken := bindings[addr]; taken {
			return fmt.Errorf("address %s is used twice", addr)
		}
		bindings[addr] = b
		return nil
	}
	for _, s := range services {
		if err := s.Validate(); err != nil {
			return nil, nil, err
		}
		if r.services[s.Name] != nil {
			return nil, nil, fmt.Errorf("service %s is defined twice", s.Name)
		}
		svc := p.serviceLocked(s)
		r.services[s.Name] = svc
		for _, addr := range s.Listen {
			if err := bind(addr, &binding{kind: dedicated, service: svc}); err != nil {
				return nil, nil, fmt.Errorf("service %s: listen: %w", s.Name, err)
			}
		}
		for _, addr := range s.ListenPlain {
			if err := bind(addr, &binding{kind: plain, service: svc}); err != nil {
				return nil, nil, fmt.Errorf("service %s: listen_plain: %w", s.Name, err)
			}
		}
	}
	for _, addr := range p.cfg.Gateway {
		if err := bind(addr, &binding{kind: shared}); err != nil {
			return nil, nil, fmt.Errorf("gateway: %w", err)
		}
	}
	return r, bindings, nil
}

func (p *Proxy) serviceLocked(s Service) *service {
	active := p.counts[s.Name]
	if active == nil {
		active = new(atomic.Int64)
		p.counts[s.Name] = active
	}
	return newService(s, active)
}

// openLocked opens what bindings wants and is not open yet: all of it or nothing.
func (p *Proxy) openLocked(bindings map[string]*binding) (map[string]*listener, error) {
	opened := make(map[string]*listener)
	for addr, b := range bindings {
		if p.listeners[addr] != nil {
			continue
		}
		l, err := listen(addr, p.inherited[addr])
		if err != nil {
			for _, l := range opened {
				l.close()
			}
			return nil, err
		}
		delete(p.inherited, addr)
		l.bind.Store(b)
		opened[addr] = l
	}
	return opened, nil
}

func (p *Proxy) startLocked(l *listener) {
	p.group.Go(func() error {
		l.serve(p.log, p.accepted)
		return nil
	})
}

// Drain closes the listeners and waits until no connection is left, or until ctx is done, whose
// error it then returns with the number of those still alive.
func (p *Proxy) Drain(ctx context.Context) error {
	p.Close()
	if err := p.live.waitEmpty(ctx); err != nil {
		return fmt.Errorf("drain: %d connections still open: %w", p.live.len(), err)
	}
	return nil
}

// Close closes the listeners. Connections go on until Run's context is done; without Run there
// are none, and Close gives back everything.
func (p *Proxy) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.group == nil && !p.closed {
		p.closeLoops()
	}
	p.closed = true
	for addr, l := range p.listeners {
		l.close()
		delete(p.listeners, addr)
	}
}

// Health returns nil while the proxy is able to serve: it runs, its locks can be had (it blocks
// where they cannot, and so stops the caller's heartbeat), and every listener accepts.
func (p *Proxy) Health() error {
	p.live.len()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.group == nil {
		return errors.New("proxy is not serving")
	}
	for addr, l := range p.listeners {
		if err := l.fault.Load(); err != nil {
			return fmt.Errorf("listener %s: %w", addr, *err)
		}
	}
	return nil
}

// Addrs returns the configured addresses with the address that each listener really has.
func (p *Proxy) Addrs() map[string]netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	addrs := make(map[string]netip.AddrPort, len(p.listeners))
	for addr, l := range p.listeners {
		addrs[addr] = l.Addr().(*net.TCPAddr).AddrPort()
	}
	return addrs
}
