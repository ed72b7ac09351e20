// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	maxPeers      = 4096 // names that are remembered at a time
	packetBacklog = 4096 // packets that wait in Packets
	streamBacklog = 64   // streams that wait in Streams
	upkeepPeriod  = 5 * time.Second
)

// Errors of Send and Dial.
var (
	ErrClosed = errors.New("mesh is closed")
	ErrSelf   = errors.New("that is this node")
	ErrSize   = errors.New("packet is empty or larger than 64 KiB")
	ErrName   = errors.New("no peer of that name")
	ErrPeers  = errors.New("too many peers")
)

// Trust says who this node is and who may talk to it. It is safe for concurrent use; no method blocks.
type Trust interface {
	// Certificate is what this node shows: its leaf (with Leaf set), then the root that issued it. The
	// serial numbers of the certificates of one name grow.
	Certificate() (*tls.Certificate, error)
	// Verify returns the name that a peer's chain proves, or why it is refused. It checks everything:
	// issuer, cluster, time, and that the name is not denied. Leaf first.
	Verify(chain []*x509.Certificate) (name string, err error)
	// Changed returns a channel that is closed when an answer of the other two may have changed.
	Changed() <-chan struct{}
}

// Config says what a Mesh needs. Everything but Join and Count is required.
type Config struct {
	Name   string // of this node, as in its certificate
	Listen netip.AddrPort
	Trust  Trust
	// ResetKey survives restarts of this node and is known to it alone: with it peers notice a restart
	// with their next packet, not after an idle timeout of ten seconds (RFC 9000 section 10.3).
	ResetKey [32]byte
	// Join serves a node that has no certificate yet; nil: nobody joins here. It has until ctx ends, and
	// conn is closed when it returns. At most maxJoins run at a time.
	Join  func(ctx context.Context, conn *JoinConn)
	Log   *slog.Logger
	Count func(event string) // one of Events; called from many goroutines; nil: nobody counts
}

// Mesh is this node's end of the mesh. All methods are safe for concurrent use.
//
//	Mesh ─ one socket, one listener
//	 ├─ peer, one a name: a bounded queue, at most one sender, at most one dial
//	 └─ link, one a connection: hello, then three receivers. A peer uses one link; another may be draining.
//
// What somebody on the wire sees: addresses, sizes and times; that it is QUIC version 1, and from its first
// packets (whose keys anybody can derive) a server name and a protocol name that are the same in every
// cluster, and so whether a node joins. Names, certificates and all else are encrypted to the other end.
type Mesh struct {
	name  string
	boot  uint64
	trust Trust
	log   *slog.Logger
	count func(string)
	join  func(context.Context, *JoinConn)

	socket    *net.UDPConn
	transport *quic.Transport
	listener  *quic.Listener
	joins     joinGate
	pending   atomic.Int64 // connections from outside that have not said hello

	packets chan Packet
	streams chan Stream

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu    sync.Mutex // taken before peer.mu
	peers map[string]*peer
	links map[*link]struct{} // all whose handshake is complete, also those that drain

	lifeMu sync.Mutex // taken after all others
	closed bool
	group  sync.WaitGroup // everything that spawn started
}

// New binds the socket and listens; nobody is answered before Run, and Close must be called.
func New(cfg Config) (*Mesh, error) {
	if cfg.Name == "" || len(cfg.Name) > MaxName {
		return nil, fmt.Errorf("name of %d bytes: it must have 1 to %d", len(cfg.Name), MaxName)
	}
	if cfg.Trust == nil || cfg.Log == nil {
		return nil, errors.New("mesh without Trust or Log")
	}
	if cfg.ResetKey == [32]byte{} {
		return nil, errors.New("mesh without a ResetKey")
	}
	socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(cfg.Listen))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	var boot [8]byte
	_, _ = rand.Read(boot[:]) // never fails
	m := &Mesh{
		name: cfg.Name, boot: binary.BigEndian.Uint64(boot[:]), trust: cfg.Trust,
		log: cfg.Log, count: cfg.Count, join: cfg.Join,
		socket:  socket,
		joins:   newJoinGate(),
		packets: make(chan Packet, packetBacklog), streams: make(chan Stream, streamBacklog),
		peers: make(map[string]*peer), links: make(map[*link]struct{}),
	}
	if m.count == nil {
		m.count = func(string) {}
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.transport = m.newTransport((*quic.StatelessResetKey)(&cfg.ResetKey))
	if m.listener, err = m.transport.Listen(m.serverTLS(), m.quicConfig()); err != nil {
		m.cancel()
		_ = socket.Close() // nothing was sent
		return nil, fmt.Errorf("listen: %w", err)
	}
	return m, nil
}

// Run answers others, sweeps links when trust changes, and keeps house until ctx ends or Close is called;
// then it closes the mesh and returns nil.
func (m *Mesh) Run(ctx context.Context) error {
	defer m.Close()
	stop := context.AfterFunc(ctx, m.cancel)
	defer stop()
	if !m.spawn(m.accept) {
		return nil
	}
	upkeep := time.NewTicker(upkeepPeriod)
	defer upkeep.Stop()
	for {
		changed := m.trust.Changed()
		m.sweep()
		select {
		case <-m.ctx.Done():
			return nil
		case <-changed:
		case <-upkeep.C:
			m.forgetIdle(time.Now())
		}
	}
}

// Close ends all links and waits for every goroutine of the mesh, then closes Packets and Streams. It is
// idempotent.
func (m *Mesh) Close() error {
	m.lifeMu.Lock()
	first := !m.closed
	m.closed = true
	m.lifeMu.Unlock()
	m.cancel() // before the links are listed: register looks at it
	for _, l := range m.allLinks() {
		l.close(codeClosing, "closing")
	}
	m.group.Wait()
	if !first {
		return nil
	}
	_ = m.listener.Close() // the transport is closed next, which says what matters
	err := errors.Join(m.transport.Close(), m.socket.Close())
	close(m.packets)
	close(m.streams)
	if err != nil {
		return fmt.Errorf("close mesh: %w", err)
	}
	return nil
}

// LocalAddr is the address of the socket.
func (m *Mesh) LocalAddr() netip.AddrPort {
	return m.socket.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Packets is what peers sent. Whoever falls behind by 4,096 packets loses the newest. It is closed by Close.
func (m *Mesh) Packets() <-chan Packet { return m.packets }

// Streams is what peers opened. Whoever falls behind by 64 streams has the newest refused. Closed by Close.
func (m *Mesh) Streams() <-chan Stream { return m.streams }

// Up says whether a link to a peer of that name is up: both ends have verified each other's certificate.
func (m *Mesh) Up(name string) bool {
	m.mu.Lock()
	p := m.peers[name]
	m.mu.Unlock()
	return p != nil && p.live() != nil
}

// spawn runs f in a goroutine that Close waits for; false, and f does not run, if the mesh is closed.
func (m *Mesh) spawn(f func()) bool {
	m.lifeMu.Lock()
	defer m.lifeMu.Unlock()
	if m.closed {
		return false
	}
	m.group.Go(f)
	return true
}

// peer returns the peer of that name, and makes it if there is none.
func (m *Mesh) peer(name string) (*peer, error) {
	if name == "" || len(name) > MaxName {
		return nil, ErrName
	}
	if name == m.name {
		return nil, ErrSelf
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if p := m.peers[name]; p != nil {
		return p, nil
	}
	if len(m.peers) >= maxPeers {
		return nil, ErrPeers
	}
	p := newPeer(m, name)
	m.peers[name] = p
	return p, nil
}

// forgetIdle drops peers that have no link and that nobody wanted for a while: names come and go.
func (m *Mesh) forgetIdle(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, p := range m.peers {
		if p.idleSince(now) > peerMemory {
			delete(m.peers, name)
		}
	}
}

func (m *Mesh) allLinks() []*link {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.links))
}

// liveLinks returns the links in use.
func (m *Mesh) liveLinks() []*link {
	m.mu.Lock()
	defer m.mu.Unlock()
	links := make([]*link, 0, len(m.peers))
	for _, p := range m.peers {
		if l := p.live(); l != nil {
			links = append(links, l)
		}
	}
	return links
}
