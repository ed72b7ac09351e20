// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

const (
	provePeriod   = 100 * time.Millisecond // between looks at who has proved its name meanwhile
	askPeriod     = time.Second            // between words to one that has not
	provePatience = 15 * time.Second       // after which it is taken for a phantom
	maxUnproved   = 256                    // names at a time: whoever is a member can invent them
)

// kindConnect is the kind of a packet that has the carrier make a link, if it can. It says nothing.
const kindConnect byte = 0

// unproved is a name that was announced and that nobody has proved yet.
type unproved struct {
	addr  string
	since time.Time
	asked time.Time
}

// admission implements memberlist.AliveDelegate: a node becomes a member only when it has proved its name to
// this one. Who has not yet is asked to, and admitted as soon as it has:
//
//	announced ──no link──> unproved ──link up──> push/pull with it ──announced──> member
//	                          └──15 s──> phantom
//
// A member stays one while its link is down: whether it lives is for all to say, not for this link.
type admission struct{ *Cluster }

func (a admission) NotifyAlive(n *memberlist.Node) error {
	addr := addrOfNode(n)
	switch {
	case n.Name == a.cfg.Name:
		return nil
	case n.Name == "" || len(n.Name) > maxName:
		return fmt.Errorf("a name of %d bytes", len(n.Name))
	case a.cfg.Removed(n.Name):
		return fmt.Errorf("node %s was removed", n.Name)
	case a.isMember(n.Name, addr), a.cfg.Carrier.Up(n.Name):
		return nil
	}
	a.ask(n.Name, addr)
	return fmt.Errorf("node %s at %s has not proved its name yet", n.Name, addr)
}

func (c *Cluster) isMember(name, addr string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.known[name]
	return ok && k.state == Alive && k.addr == addr
}

// ask has the carrier connect to a node that is not proved, and remembers to look whether it is.
func (c *Cluster) ask(name, addr string) {
	now := time.Now()
	c.mu.Lock()
	u, ok := c.unproved[name]
	if !ok && len(c.unproved) >= maxUnproved {
		c.mu.Unlock()
		return // a flood of names
	}
	if !ok {
		u.since = now
	}
	moved := u.addr != addr
	u.addr = addr
	due := moved || now.Sub(u.asked) >= askPeriod
	if due {
		u.asked = now
	}
	c.unproved[name] = u
	c.mu.Unlock()
	if due {
		_ = c.cfg.Carrier.Send(mesh.Peer{Name: name, Addr: addr}, kindConnect, []byte{0}) // is done again
	}
	select {
	case c.unprovedNews <- struct{}{}:
	default:
	}
}

// prove admits those that have proved their names, until ctx is done.
func (c *Cluster) prove(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.unprovedNews:
		}
		for c.proveAll(ctx) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(provePeriod):
			}
		}
	}
}

func (c *Cluster) proved(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unproved, name)
}

// proveAll goes through the unproved and reports whether any are left. Of those that have proved their names
// it exchanges states with one, which announces the others again.
func (c *Cluster) proveAll(ctx context.Context) bool {
	now := time.Now()
	c.mu.Lock()
	list := make(map[string]unproved, len(c.unproved))
	for name, u := range c.unproved {
		list[name] = u
		if now.Sub(u.since) > provePatience {
			delete(c.unproved, name)
		}
	}
	c.mu.Unlock()
	joined, phantoms, example := false, 0, ""
	for name, u := range list {
		switch {
		case c.cfg.Carrier.Up(name):
			if !joined {
				joined = true
				c.join(ctx, mesh.Peer{Name: name, Addr: u.addr})
				c.proved(name)
			}
		case now.Sub(u.since) > provePatience:
			c.cfg.Count(EventPhantom)
			phantoms, example = phantoms+1, name
		default:
			c.ask(name, u.addr)
		}
	}
	if phantoms > 0 {
		c.cfg.Log.Warn("members are announced that do not prove their names", "nodes", phantoms, "one", example)
	}
	return len(list) > 0
}
