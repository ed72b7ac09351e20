// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	cfg     Config
	seeds   []seed
	list    *memberlist.Memberlist
	wire    *transport
	cast    *broadcasts
	started time.Time

	meta         atomic.Pointer[[]byte] // what Config.Meta said last
	leaving      atomic.Bool
	changed      chan struct{} // has room for one: members have changed
	unprovedNews chan struct{} // has room for one: somebody is unproved

	mu       sync.Mutex          // taken under memberlist's locks: nothing of memberlist is called under it
	known    map[string]known    // members of now and of before, without this node
	unproved map[string]unproved // names that were announced
}

// New returns a Cluster of this node alone. Memberlist's goroutines run from now on, until Close; Run
// must be running for anything to come in and for others to be found.
func New(cfg Config) (*Cluster, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, started: time.Now(), changed: make(chan struct{}, 1), unprovedNews: make(chan struct{}, 1),
		known: map[string]known{}, unproved: map[string]unproved{}}
	for _, text := range cfg.Seeds {
		s, err := parseSeed(text)
		if err != nil {
			return nil, fmt.Errorf("gossip: %w", err)
		}
		c.seeds = append(c.seeds, s)
	}
	if err := c.readMeta(); err != nil {
		return nil, err
	}
	c.wire = newTransport(c)
	c.cast = newBroadcasts(c)
	for _, p := range cfg.Remembered {
		if p.Name != cfg.Name && !cfg.Removed(p.Name) {
			c.known[p.Name] = known{addr: p.Addr, state: Dead, since: c.started}
		}
	}
	var err error
	if c.list, err = memberlist.Create(c.settings()); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	return c, nil
}

// readMeta asks for this node's metadata, and keeps what it had if there is too much.
func (c *Cluster) readMeta() error {
	meta := slices.Clone(c.cfg.Meta())
	if len(meta) > MaxMeta {
		return fmt.Errorf("gossip: metadata of %d bytes: at most %d fit", len(meta), MaxMeta)
	}
	c.meta.Store(&meta)
	return nil
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
	for _, part := range []func(context.Context){c.receive, c.accept, c.cast.work, c.rejoin, c.seek, c.prove, c.announce} {
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
			case p.Kind == mesh.KindApplication:
				c.cfg.Handler.Receive(p.From.Name, p.Data)
			}
		}
	}
}

// announceSpacing is between two announcements, at least: a node that joins many hears of each of them.
const announceSpacing = 20 * time.Millisecond

// announce tells of changes outside of all locks.
func (c *Cluster) announce(ctx context.Context) {
	var last []mesh.Peer
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.changed:
			if list := c.peers(func(k known) bool { return k.state != Left }); !slices.Equal(list, last) {
				last = list
				c.cfg.Remember(slices.Clone(list))
			}
			c.cfg.Changed()
		}
		select {
		case <-ctx.Done():
		case <-time.After(announceSpacing):
		}
	}
}

func (c *Cluster) hasChanged() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Update tells the other members of a changed Meta.
func (c *Cluster) Update() error {
	if err := c.readMeta(); err != nil {
		return err
	}
	if err := c.list.UpdateNode(streamTimeout); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// A goodbye is said to each member so many times: some are lost.
const (
	goodbyes     = 8
	goodbyePause = 20 * time.Millisecond
)

// Leave says goodbye, and waits until it was said to some members or the timeout is over. Run must be running.
func (c *Cluster) Leave(timeout time.Duration) error {
	until := time.Now().Add(timeout)
	c.leaving.Store(true)
	others := c.peers(func(k known) bool { return k.state == Alive })
	for i := 0; i < goodbyes && len(others) > 0 && time.Until(until) > goodbyePause; i++ {
		for _, p := range others {
			c.wire.send(p, nil)
		}
		time.Sleep(goodbyePause)
	}
	if err := c.list.Leave(max(time.Until(until), time.Millisecond)); err != nil { // zero would mean for ever
		return fmt.Errorf("leave the cluster: %w", err)
	}
	return nil
}

// Close ends memberlist, without a goodbye. Its last goroutines end when the probes that they wait for are over,
// which is within ten seconds. The carrier is its owner's to close.
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
