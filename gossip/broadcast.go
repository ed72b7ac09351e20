// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/memberlist"
)

// Bounds of broadcasts.
const (
	MaxBroadcast  = 1000 // bytes: one that does not fit into a packet would wait for ever
	maxBroadcasts = 4096
	castBacklog   = 4096
)

// broadcasts carries messages to all members by gossip: each passes on what is news to it, a few times.
type broadcasts struct {
	cluster  *Cluster
	queue    memberlist.TransmitLimitedQueue
	incoming chan []byte
}

func newBroadcasts(c *Cluster) *broadcasts {
	b := &broadcasts{cluster: c, incoming: make(chan []byte, castBacklog)}
	b.queue.RetransmitMult = retransmitMult
	b.queue.NumNodes = func() int { return c.list.NumMembers() }
	return b
}

// Broadcast sends data to all members by gossip, best effort. A later one with the same key takes the place
// of an earlier one that is on its way.
func (c *Cluster) Broadcast(key string, data []byte) error {
	if len(data) > MaxBroadcast {
		return fmt.Errorf("broadcast of %d bytes: at most %d fit", len(data), MaxBroadcast)
	}
	c.cast.send(broadcast{key, slices.Clone(data)})
	return nil
}

func (b *broadcasts) send(m memberlist.Broadcast) {
	b.queue.QueueBroadcast(m)
	if b.queue.NumQueued() > maxBroadcasts {
		b.queue.Prune(maxBroadcasts)
		b.cluster.cfg.Count(EventBroadcastFull)
	}
}

// work hands out what comes in, and passes on what is news.
func (b *broadcasts) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case data := <-b.incoming:
			again := slices.Clone(data) // the handler owns data
			if b.cluster.cfg.Handler.Gossiped(data) && len(again) <= MaxBroadcast {
				b.send(anonymous(again))
			}
		}
	}
}

// broadcast is a memberlist.NamedBroadcast.
type broadcast struct {
	key  string
	data []byte
}

func (b broadcast) Name() string { return b.key }
func (b broadcast) Invalidates(other memberlist.Broadcast) bool {
	named, ok := other.(memberlist.NamedBroadcast)
	return ok && named.Name() == b.key
}
func (b broadcast) Message() []byte { return b.data }
func (b broadcast) Finished()       {}

// anonymous is a memberlist.UniqueBroadcast: it is passed on for another.
type anonymous []byte

func (anonymous) UniqueBroadcast()                      {}
func (anonymous) Invalidates(memberlist.Broadcast) bool { return false }
func (a anonymous) Message() []byte                     { return a }
func (anonymous) Finished()                             {}

// delegate implements memberlist.Delegate. Memberlist's exchange of full states carries none.
type delegate struct{ *Cluster }

func (d delegate) NodeMeta(limit int) []byte {
	flag := byte(metaStaying)
	if d.leaving.Load() {
		flag = metaLeaving
	}
	meta := append([]byte{flag}, d.cfg.Meta()...)
	return meta[:min(len(meta), limit)]
}

func (d delegate) NotifyMsg(data []byte) {
	select {
	case d.cast.incoming <- slices.Clone(data): // memberlist uses the buffer again
	default:
		d.cfg.Count(EventGossipFull)
	}
}

func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.cast.queue.GetBroadcasts(overhead, limit)
}

func (delegate) LocalState(bool) []byte        { return nil }
func (delegate) MergeRemoteState([]byte, bool) {}
