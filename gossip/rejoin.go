// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Looking for members that are missing: memberlist alone never heals a partition that outlasts its patience.
const (
	rejoinInterval = time.Second // and a jitter of half of it
	rejoinParallel = 3
	seedInterval   = 5 * time.Second // between looks at the seeds while somebody is there
)

// rejoin looks for members that are missing, until ctx is done.
func (c *Cluster) rejoin(ctx context.Context) {
	var seeded time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		targets := c.missing()
		if c.alone() || time.Since(seeded) >= seedInterval {
			targets = append(targets, c.strangers(ctx)...)
			seeded = time.Now()
		}
		c.join(ctx, targets)
		timer.Reset(rejoinInterval/2 + rand.N(rejoinInterval))
	}
}

// missing are members that are known and do not answer, as name/host:port, in any order.
func (c *Cluster) missing() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for name, k := range c.known {
		if k.state == Dead && !c.cfg.Removed(name) {
			list = append(list, name+"/"+k.addr)
		}
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(len(list), rejoinParallel)]
}

func (c *Cluster) alone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.known {
		if k.state == Alive {
			return false
		}
	}
	return true
}

// strangers are addresses of seeds at which nobody is that is known to be there.
func (c *Cluster) strangers(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	var list []string
	for _, seed := range c.cfg.Seeds {
		addrs, err := resolve(ctx, c.cfg.Resolver, seed)
		if err != nil {
			c.cfg.Log.Debug("seed not resolved", "seed", seed, "error", err)
			continue
		}
		for _, addr := range addrs {
			if addr != c.cfg.Advertise.String() && !c.aliveAt(addr) {
				list = append(list, addr)
			}
		}
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(len(list), rejoinParallel)]
}

func (c *Cluster) aliveAt(addr string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.known {
		if k.addr == addr && (k.state == Alive || k.state == Dead) { // the dead are looked for by name
			return true
		}
	}
	return false
}

// join tries all targets at once; each takes no longer than streamTimeout.
func (c *Cluster) join(ctx context.Context, targets []string) {
	var trying sync.WaitGroup
	for _, target := range targets {
		trying.Go(func() {
			if ctx.Err() != nil {
				return
			}
			if _, err := c.list.Join([]string{target}); err != nil {
				c.cfg.Log.Debug("not joined", "target", target, "error", err)
				return
			}
			c.cfg.Count(EventRejoined)
		})
	}
	trying.Wait()
}
