// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// Looking for members that are missing: memberlist alone never heals a partition that outlasts its patience.
const (
	rejoinInterval = time.Second // and a jitter of a quarter of it, either way
	rejoinParallel = 3
	settling       = 10 * time.Second // after the start, in which a node compares notes in every round: gossip misses some
	seedInterval   = 5 * time.Second  // between looks at the seeds when members were found at all of them
	seedMemory     = time.Minute      // for which a seed is left alone that answered from an address that is no member's
)

// rejoin looks for members that are missing, until ctx is done.
func (c *Cluster) rejoin(ctx context.Context) {
	c.repeat(ctx, func() time.Duration {
		some := pick(c.peers(func(k known) bool { return k.state == Dead }), rejoinParallel)
		if time.Since(c.started) < settling {
			some = append(some, pick(c.peers(func(k known) bool { return k.state == Alive }), 1)...)
		}
		c.joinAll(ctx, some)
		return rejoinInterval
	})
}

// seek looks for members at the seeds, until ctx is done. It is slower than rejoin when the name service is.
func (c *Cluster) seek(ctx context.Context) {
	answered := map[string]time.Time{}
	c.repeat(ctx, func() time.Duration {
		strangers := c.strangers(ctx, answered)
		for _, addr := range c.joinAll(ctx, pick(strangers, rejoinParallel)) {
			answered[addr] = time.Now()
		}
		if len(strangers) == 0 && !c.alone() {
			return seedInterval
		}
		return rejoinInterval
	})
}

// repeat does a round again and again; the round says how long after its begin the next is due.
func (c *Cluster) repeat(ctx context.Context, round func() time.Duration) {
	for {
		began := time.Now()
		next := round()
		next += rand.N(next/2) - next/4
		timer := time.NewTimer(max(next-time.Since(began), rejoinInterval/20))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func (c *Cluster) alone() bool {
	return len(c.peers(func(k known) bool { return k.state == Alive })) == 0
}

// strangers are addresses of seeds at which nobody is that is known to be there. The dead are looked for by name.
func (c *Cluster) strangers(ctx context.Context, answered map[string]time.Time) []mesh.Peer {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	ours := map[string]bool{c.cfg.Advertise.String(): true}
	for _, p := range c.peers(func(k known) bool { return k.state != Left }) {
		ours[p.Addr] = true
	}
	alone := c.alone()
	var list []mesh.Peer
	for _, addr := range c.resolveSeeds(ctx) {
		known := !alone && time.Since(answered[addr]) < seedMemory // a balancer's, say
		if !ours[addr] && !known {
			list = append(list, mesh.Peer{Addr: addr})
		}
	}
	return list
}

// pick returns at most n of the peers, at random.
func pick(peers []mesh.Peer, n int) []mesh.Peer {
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	return peers[:min(len(peers), n)]
}

// joinAll tries the peers, all at once, and returns the addresses of those that answered.
func (c *Cluster) joinAll(ctx context.Context, peers []mesh.Peer) (answered []string) {
	var trying sync.WaitGroup
	var mu sync.Mutex
	for _, p := range peers {
		trying.Go(func() {
			if c.join(ctx, p) {
				mu.Lock()
				answered = append(answered, p.Addr)
				mu.Unlock()
				c.cfg.Count(EventRejoined)
			}
		})
	}
	trying.Wait()
	return answered
}

// join exchanges states with a peer, which takes at most a streamTimeout to connect and another to be done.
func (c *Cluster) join(ctx context.Context, p mesh.Peer) bool {
	if ctx.Err() != nil {
		return false
	}
	target := p.Addr
	if p.Name != "" {
		target = p.Name + "/" + p.Addr // memberlist's way to name a node
	}
	if _, err := c.list.Join([]string{target}); err != nil {
		c.cfg.Log.Debug("not joined", "target", target, "error", err)
		return false
	}
	return true
}
