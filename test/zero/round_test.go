// SPDX-License-Identifier: Apache-2.0

//go:build linux

package zero

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/client"
)

// The dimensions of a case.
type (
	state     string // of the agent when the session ends
	ending    string // of the session
	transport string // of the client's leg; the upstream's is plain
	class     struct {
		state     state
		ending    ending
		transport transport
		family    int
	}
)

const (
	running state = "running"
	stopped state = "proxy stopped"
	killed  state = "proxy killed"
	frozen  state = "both stopped"

	explicit ending = "kill"
	absolute ending = "absolute"
	idle     ending = "idle"

	overTLS transport = "tls"
	spliced transport = "splice"
)

var (
	states     = []state{running, stopped, killed, frozen}
	endings    = []ending{explicit, absolute, idle}
	transports = []transport{overTLS, spliced}
	families   = []int{4, 6}
)

func (c class) address() string {
	return net.JoinHostPort(agentAddr[c.family], map[transport]string{overTLS: "7001", spliced: "7002"}[c.transport])
}

// round is one session with one connection, and its end.
type round struct {
	class
	number uint64 // names it to the upstream
	from   netip.Addr
	key    *client.Key
	roots  *x509.CertPool
	id     session.ID
	due    session.Instant // about when it will end, as planned

	client, upstream *end
	flows            [2]flow

	since    session.Instant // what lateness is counted from
	deadline session.Instant // nothing may pass after it
	counts   bool            // it came in the state that it was meant for
}

// plan chooses the moment of the end and the timeouts for it: often just behind the moment at which
// the agent is stopped.
func (r *round) plan(rnd *rand.Rand, at session.Instant) (ttl, idleTimeout time.Duration) {
	after := time.Duration(rnd.Int64N(int64(1300 * time.Millisecond)))
	if rnd.IntN(4) == 0 {
		after = 5*time.Millisecond + after/50
	}
	r.due = at.Add(after)
	switch r.ending {
	case absolute:
		return r.due.Sub(now()), 0
	case idle:
		return time.Hour, 800*time.Millisecond + time.Duration(rnd.Int64N(int64(400*time.Millisecond)))
	}
	return time.Hour, 0
}

// create makes the session.
func (r *round) create(f *fixture, rnd *rand.Rand, at session.Instant) error {
	var err error
	if r.key, err = client.NewKey(); err != nil {
		return err
	}
	ttl, idleTimeout := r.plan(rnd, at)
	req := api.CreateSessionRequest{Subject: fmt.Sprintf("round%d", r.number), Key: r.key.ID(), TTL: api.Seconds(ttl), Idle: api.Seconds(idleTimeout)}
	if r.transport == spliced {
		req.BindAddrs = []netip.Addr{r.from}
	}
	made, err := f.agent.Control.CreateSession(f.t.Context(), req)
	if err != nil {
		return err
	}
	r.id = made.Session.ID
	r.roots = x509.NewCertPool()
	r.roots.AppendCertsFromPEM([]byte(made.CA))
	return r.connect(f, rnd, at, idleTimeout)
}

// connect lets both ends meet, and starts their traffic.
func (r *round) connect(f *fixture, rnd *rand.Rand, stop session.Instant, idleTimeout time.Duration) error {
	arrived := f.upstream.expect(r.number)
	tcp, conn, err := r.dial(f)
	if err != nil {
		return err
	}
	var far *net.TCPConn
	select {
	case far = <-arrived:
	case <-time.After(patience):
		return errors.New("the connection does not reach the upstream")
	}
	r.flows = [2]flow{
		{addrPort(tcp.RemoteAddr()), addrPort(tcp.LocalAddr())},
		{addrPort(far.RemoteAddr()), addrPort(far.LocalAddr())},
	}
	up, down := &lane{}, &lane{}
	r.client = &end{conn: conn, out: up, in: down, rand: rand.New(rand.NewPCG(rnd.Uint64(), 1))}
	r.upstream = &end{conn: far, out: down, in: up, rand: rand.New(rand.NewPCG(rnd.Uint64(), 2))}
	r.traffic(rnd, stop, idleTimeout)
	r.client.start()
	r.upstream.start()
	return nil
}

// dial connects and tells the upstream the round's number. conn is tcp, or TLS over it.
func (r *round) dial(f *fixture) (tcp *net.TCPConn, conn net.Conn, err error) {
	if tcp, err = f.client.Dial(r.from.String(), r.address(), patience); err != nil {
		return nil, nil, err
	}
	conn = tcp
	if r.transport == overTLS {
		conn = tls.Client(tcp, &tls.Config{
			Certificates: []tls.Certificate{r.key.Certificate()}, RootCAs: r.roots, ServerName: "localhost", MinVersion: tls.VersionTLS13,
		})
	}
	hello := binary.BigEndian.AppendUint64(nil, r.number)
	if err = conn.SetDeadline(time.Now().Add(patience)); err == nil {
		if _, err = conn.Write(hello); err == nil && tcp != nil {
			err = tcp.SetWriteDeadline(time.Time{})
		}
	}
	if err != nil {
		_ = conn.Close() // err says what matters
		return nil, nil, err
	}
	return tcp, conn, nil
}

// traffic chooses what the ends do, when the agent is to be stopped at an instant.
func (r *round) traffic(rnd *rand.Rand, stop session.Instant, idleTimeout time.Duration) {
	_ = r.client.conn.SetDeadline(time.Time{})                              // fails when closed: reading tells
	pick := func() pace { return []pace{small, small, large}[rnd.IntN(3)] } // small ones go on knocking when nobody reads
	r.client.pace, r.upstream.pace = pick(), pick()
	switch rnd.IntN(5) {
	case 0:
		r.client.pace, r.upstream.pace = asks, answers
	case 1:
		r.client.pace = mute
	case 2:
		r.upstream.pace = mute
	case 3: // one end reads nothing until about the end, so that the agent's buffers are full
		fast, slow := r.client, r.upstream
		if rnd.IntN(2) == 0 {
			fast, slow = slow, fast
		}
		fast.pace = large
		if rnd.IntN(2) == 0 {
			slow.pace = mute
		}
		slow.stallFrom = min(r.due, stop).Add(-200 * time.Millisecond) // while there is somebody to fill them
		slow.stallTo = r.due.Add(time.Duration(rnd.Int64N(int64(40*time.Millisecond))) - 20*time.Millisecond)
	}
	if r.ending != idle {
		return
	}
	// The client falls silent at some time. A request that has no answer is not idle: somebody answers.
	if r.upstream.pace == mute {
		r.upstream.pace = pick()
	}
	if r.client.pace == mute {
		r.client.pace = pick()
	}
	r.client.pace.until = r.due.Add(-idleTimeout)
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func (r *round) ends() map[string]*end {
	return map[string]*end{"client": r.client, "upstream": r.upstream}
}

// over reports whether both ends have seen the end; if lenient, those who can.
func (r *round) over(lenient bool) bool {
	for _, e := range r.ends() {
		if !e.over() && !(lenient && r.mayBeUntold(e)) {
			return false
		}
	}
	return true
}

// mayBeUntold reports whether the end may not learn of its end while nobody of the agent runs. With data in
// flight at the deadline, whose acknowledgement does not pass the gate, the stack drops the connection
// by its user timeout, which takes the peer to be dead and sends no reset (tcp_write_err). A peer that then says
// nothing is told nothing.
func (r *round) mayBeUntold(e *end) bool { return r.state == frozen && e.silent() }

// refused returns nil if the key, or the address, of the ended session lets nobody in any more.
func (r *round) refused(f *fixture) error {
	_, conn, err := r.dial(f)
	if err != nil {
		return refusal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return refusal(err)
	}
	return errors.New("let in after its end")
}

// refusal is nil for an error that the agent has caused, and not a time limit of ours.
func refusal(err error) error {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return fmt.Errorf("neither let in nor refused: %w", err)
	}
	return nil
}

// server is the upstream: it sorts its connections by the numbers that they begin with.
type server struct {
	mu      sync.Mutex
	waiting map[uint64]chan *net.TCPConn
	strays  []uint64 // numbers that came and were not expected
}

// expect returns where the next connection of a number arrives.
func (s *server) expect(number uint64) <-chan *net.TCPConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan *net.TCPConn, 1)
	s.waiting[number] = c
	return c
}

func (s *server) serve(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return // closed
		}
		go s.accept(c)
	}
}

func (s *server) accept(c *net.TCPConn) {
	hello := make([]byte, 8)
	_ = c.SetReadDeadline(time.Now().Add(patience)) // fails when closed: reading tells
	if _, err := io.ReadFull(c, hello); err != nil {
		_ = c.Close() // it was refused before it was relayed
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	number := binary.BigEndian.Uint64(hello)
	s.mu.Lock()
	defer s.mu.Unlock()
	if to := s.waiting[number]; to != nil {
		delete(s.waiting, number)
		to <- c
		return
	}
	s.strays = append(s.strays, number)
	_ = c.Close() // it should not be here
}
