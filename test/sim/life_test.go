// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/cluster"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/gossip"
	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// As the agent sets them, except for the retention: what has ended is to be forgotten within a run.
const (
	idleGrace = time.Second
	retention = 30 * time.Second
	recalled  = 10 * time.Millisecond // how far a stored deadline may be off
)

// start begins a life of the node, from what its disk has.
func (n *node) start() {
	l := &life{node: n, since: time.Now(), settled: n.world.book.settled(n)}
	if err := n.build(l); err != nil {
		n.world.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	errs := make(chan error, 3)
	for _, part := range []func(context.Context) error{l.table.Run, l.engine.Run, l.members.Run} {
		parts.Go(func() { errs <- part(ctx) })
	}
	parts.Go(func() { n.store.run(ctx) })
	l.end = func() error {
		cancel()
		parts.Wait()
		return errors.Join(<-errs, <-errs, <-errs, l.members.Close(), l.carrier.Close())
	}
	n.mu.Lock()
	n.life = l
	n.lives++
	first := n.lives == 1
	n.mu.Unlock()
	if l.engine.Ready() && !(first && n.index == 0) && l.answers.Load() == 0 {
		n.world.fail("(6) %s is ready as it starts", n.name)
	}
}

func (n *node) build(l *life) (err error) {
	w := n.world
	if l.carrier, err = w.net.Node(n.name, n.addr.String()); err != nil {
		return err
	}
	if err = n.buildTable(l); err != nil {
		return err
	}
	var others, seeds []string
	for _, other := range w.nodes {
		if other != n {
			others = append(others, other.name)
		}
	}
	n.mu.Lock()
	first, peers := n.lives == 0, n.peers
	n.mu.Unlock()
	if first && n.index > 0 {
		seeds = []string{w.nodes[(n.index-1)/8].addr.String()}
	}
	l.members, err = gossip.New(gossip.Config{
		Name: n.name, Advertise: n.addr, Carrier: l.carrier, Handler: l, Seeds: seeds, Log: slog.New(slog.DiscardHandler),
		Changed:    func() { l.engine.MembersChanged() },
		Remembered: peers, Remember: func(p []mesh.Peer) { n.mu.Lock(); defer n.mu.Unlock(); n.peers = p },
	})
	if err != nil {
		return err
	}
	l.engine, err = cluster.New(cluster.Config{
		Clock: n.clock, Timebase: l.base, Table: l.table, Network: l, Membership: l,
		Peers: others, Alone: first && n.index == 0, OnReady: l.isReady, Count: w.count,
		Outcome: func(context.Context, []cluster.EndedSession) (cluster.Outcome, error) {
			return cluster.Outcome{Verified: true}, nil
		},
	})
	return err
}

// buildTable makes a table of what the disk has.
func (n *node) buildTable(l *life) (err error) {
	l.base = cluster.NewTimebase(n.origin(), n.clock, nil)
	l.table, err = session.NewTable(session.TableConfig{
		Clock: n.clock, Store: n.store, Watermarks: n.store, Timebase: l.base, Retention: retention,
		OnEnd: l.hasEnded, OnChange: func(r session.Record) { l.engine.Changed(r) },
	})
	if err != nil {
		return err
	}
	l.table.SetIdleGrace(idleGrace)
	sessions, marks := n.store.read()
	for _, mark := range marks {
		l.table.RestoreWatermark(mark)
	}
	for _, s := range sessions {
		if s.Ended == nil {
			l.base.Adopt(s.Origin, time.Duration(s.Until)-time.Duration(s.Ends), recalled)
		}
		if err := l.table.Restore(s); err != nil {
			return err
		}
	}
	return nil
}

// stop ends the life that the node has; with a goodbye and all on the disk, or by a crash.
func (n *node) stop(crash bool) {
	n.mu.Lock()
	l := n.life
	n.life = nil
	n.mu.Unlock()
	if l == nil {
		return
	}
	var goodbye error
	if !crash {
		l.table.TellActivity()
		goodbye = l.members.Leave(2 * time.Second)
	}
	n.mu.Lock()
	clear(n.conns) // they end with the process
	n.mu.Unlock()
	if err := l.end(); err != nil {
		n.world.fail("%s: its end: %v, %v", n.name, err, goodbye)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	stats := l.carrier.Stats().Sent
	n.sent.Packets += stats.Packets
	n.sent.PacketBytes += stats.PacketBytes
	n.sent.Streams += stats.Streams
	n.sent.StreamBytes += stats.StreamBytes
	if !crash {
		n.store.flush()
		return
	}
	for _, id := range n.store.crash() { // ends by a timeout alone, which the next life comes to by itself
		delete(n.ended, id)
	}
}
