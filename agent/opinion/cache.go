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
	answer       answer
	asked, until session.Instant // the host's clock counts while it is suspended
}

// get returns the answer that is kept. One that was asked for before an instant is forgotten.
func (c *cache) get(k key, since session.Instant) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.kept[k]
	if ok && (c.clock.Boot() >= e.until || e.asked < since) {
		delete(c.kept, k)
		return answer{}, false
	}
	return e.answer, ok
}

// put keeps an answer that was asked for at an instant. One that was asked for later stays.
func (c *cache) put(k key, a answer, asked session.Instant) {
	life := c.life
	if !a.allow {
		life = min(life, maxNo)
	}
	if life <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept[k].asked > asked {
		return
	}
	for old := range c.kept {
		if len(c.kept) < maxCached {
			break
		}
		delete(c.kept, old) // any: whoever it is about is asked about again
	}
	c.kept[k] = kept{a, asked, c.clock.Boot().Add(life)}
}
