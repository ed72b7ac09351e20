// SPDX-License-Identifier: Apache-2.0

package opinion

import (
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

const (
	maxCached = 10_000      // answers of one engine; about 2 MB
	maxNo     = time.Second // a no is kept that long at most: whoever gets a right should not have to wait for it
)

// cache keeps answers for a while. Safe for concurrent use.
type cache struct {
	life  time.Duration // 0: nothing is kept
	clock session.Clock

	mu   sync.Mutex
	kept map[key]kept
}

type kept struct {
	answer answer
	until  session.Instant // the host's clock counts while it is suspended
}

func (c *cache) get(k key) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.kept[k]
	if ok && c.clock.Boot() >= e.until {
		delete(c.kept, k)
		return answer{}, false
	}
	return e.answer, ok
}

func (c *cache) put(k key, a answer) {
	life := c.life
	if !a.allow {
		life = min(life, maxNo)
	}
	if life <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for old := range c.kept {
		if len(c.kept) < maxCached {
			break
		}
		delete(c.kept, old) // any: whoever it is about is asked about again
	}
	c.kept[k] = kept{a, c.clock.Boot().Add(life)}
}
