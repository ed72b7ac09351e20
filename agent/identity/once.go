// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// once admits each name one time within the age that logout tokens may have. It remembers so many that a provider may
// end hundreds of sessions a second; beyond, the oldest are forgotten: what is repeated then is no worse than what
// it repeats. It is safe for concurrent use.
type once struct {
	mu   sync.Mutex
	seen map[digest]time.Time
	fifo []digest
}

const onceMax = 200_000

func (o *once) admit(name string, now time.Time) bool {
	d := digestOf(name)
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.fifo) > 0 && (len(o.fifo) >= onceMax || now.Sub(o.seen[o.fifo[0]]) > logoutMaxAge+jose.Leeway) {
		delete(o.seen, o.fifo[0])
		o.fifo = o.fifo[1:]
	}
	if _, known := o.seen[d]; known {
		return false
	}
	if o.seen == nil {
		o.seen = map[digest]time.Time{}
	}
	o.seen[d] = now
	o.fifo = append(o.fifo, d)
	return true
}

// again takes back that a name was admitted: what it was for has failed, and may be tried again.
func (o *once) again(name string) {
	d := digestOf(name)
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.seen, d)
	for i := len(o.fifo) - 1; i >= 0; i-- {
		if o.fifo[i] == d {
			o.fifo = append(o.fifo[:i], o.fifo[i+1:]...)
			return
		}
	}
}
