// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// What was measured to work: see docs/architecture.md.
const (
	gossipInterval   = 100 * time.Millisecond
	gossipNodes      = 3
	retransmitMult   = 4 // sends of a broadcast: this times the logarithm of the number of members
	pushPullInterval = 10 * time.Second
	streamTimeout    = time.Second
	probeInterval    = time.Second
	probeTimeout     = 500 * time.Millisecond
	deadGossip       = 10 * time.Minute // how long the dead are still told of others
	reclaimTime      = 5 * time.Second  // after which a dead node's name may come from another address
	packetSize       = 1150             // of memberlist's packets: fits into a QUIC datagram
	handoffDepth     = 8192
)

// Cluster is this node's view of the members, and its way to talk to them. It is safe for concurrent use.
type Cluster struct {
	cfg  Config
	list *memberlist.Memberlist
	wire *transport
	cast *broadcasts

	leaving atomic.Bool
	changed chan struct{} // has room for one: members have changed

	mu    sync.Mutex
	known map[string]known // members of now and of before, without this node
}

// known is what is remembered of a member.
type known struct {
	addr  string
	state State
	since time.Time
	meta  []byte

	leaving bool // it said so
}

// New returns a Cluster of this node alone. Memberlist's goroutines run from now on, until Close; Run
// must be running for anything to come in and for others to be found.
func New(cfg Config) (*Cluster, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, changed: make(chan struct{}, 1), known: map[string]known{}}
	c.wire = newTransport(cfg.Advertise, cfg.Carrier)
	c.cast = newBroadcasts(c)
	for _, p := range cfg.Remembered {
		if p.Name != cfg.Name && !cfg.Removed(p.Name) {
			c.known[p.Name] = known{addr: p.Addr, state: Dead, since: time.Now()}
		}
	}
	var err error
	if c.list, err = memberlist.Create(c.settings()); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	return c, nil
}

func (c *Cluster) settings() *memberlist.Config {
	s := memberlist.DefaultLANConfig()
	s.Name = c.cfg.Name
	s.Transport = c.wire
	s.AdvertiseAddr, s.AdvertisePort = c.cfg.Advertise.Addr().String(), int(c.cfg.Advertise.Port())
	s.BindAddr, s.BindPort = s.AdvertiseAddr, s.AdvertisePort // the carrier binds; memberlist looks at it for advice only
	s.GossipInterval, s.GossipNodes, s.RetransmitMult = gossipInterval, gossipNodes, retransmitMult
	s.PushPullInterval, s.TCPTimeout = pushPullInterval, streamTimeout
	s.ProbeInterval, s.ProbeTimeout = probeInterval, probeTimeout
	s.GossipToTheDeadTime, s.DeadNodeReclaimTime = deadGossip, reclaimTime
	s.UDPBufferSize, s.HandoffQueueDepth = packetSize, handoffDepth
	s.EnableCompression = false // costs more than it saves at this size
	s.Delegate, s.Events, s.Alive = delegate{c}, events{c}, admission{c}
	s.Logger = newLog(c.cfg.Log)
	return s
}

// Run takes in what the carrier brings, and looks for members that are missing, until ctx is done.
func (c *Cluster) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context){c.receive, c.accept, c.cast.work, c.rejoin, c.announce} {
		group.Go(func() error { part(ctx); return nil })
	}
	return group.Wait()
}

// receive hands out packets.
func (c *Cluster) receive(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case p, ok := <-c.cfg.Carrier.Packets():
			switch {
			case !ok:
				return
			case p.Kind == mesh.KindMembership:
				c.wire.packet(p)
			case p.Kind == mesh.KindApplication && len(p.Data) > 0: // empty: only to connect
				c.cfg.Handler.Receive(p.From.Name, p.Data)
			}
		}
	}
}

// announce tells of changes outside of memberlist's locks.
func (c *Cluster) announce(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.changed:
			c.cfg.Remember(c.remembered())
			c.cfg.Changed()
		}
	}
}

func (c *Cluster) hasChanged() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Leave says goodbye, and waits until the others know or the timeout is over.
func (c *Cluster) Leave(timeout time.Duration) error {
	c.leaving.Store(true)
	if err := errors.Join(c.list.UpdateNode(timeout), c.list.Leave(timeout)); err != nil {
		return fmt.Errorf("leave the cluster: %w", err)
	}
	return nil
}

// Close ends memberlist's goroutines, without a goodbye. The carrier is its owner's to close.
func (c *Cluster) Close() error {
	if err := c.list.Shutdown(); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// ErrNoMember: there is no member of that name.
var ErrNoMember = errors.New("no such member")

// Send sends a packet to a member, best effort; it does not block.
func (c *Cluster) Send(to string, data []byte) error {
	peer, err := c.peer(to)
	if err != nil {
		return err
	}
	return c.cfg.Carrier.Send(peer, mesh.KindApplication, data)
}

func (c *Cluster) peer(name string) (mesh.Peer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.known[name]
	if !ok {
		return mesh.Peer{}, fmt.Errorf("%s: %w", name, ErrNoMember)
	}
	return mesh.Peer{Name: name, Addr: k.addr}, nil
}
