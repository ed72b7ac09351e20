// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// samples is the Estimator that is used where the agent brings none: of the last exchanges with a peer it
// believes the one whose error can be least, half its round trip and what the clocks drifted since.
type samples struct {
	mu    sync.Mutex
	peers map[string]*[keptSamples]exchange
}

const (
	keptSamples = 16
	maxSampled  = maxOrigins
)

type exchange struct {
	offset, half time.Duration
	at           session.Instant // zero: none
}

func newSamples() *samples { return &samples{peers: map[string]*[keptSamples]exchange{}} }

// Sample implements Estimator. An exchange that cannot have been is ignored.
func (s *samples) Sample(peer string, t1, t2, t3, t4, now session.Instant) {
	trip := t4.Sub(t1) - t3.Sub(t2)
	if trip < 0 {
		return
	}
	e := exchange{offset: (t1.Sub(t2) + t4.Sub(t3)) / 2, half: trip / 2, at: now}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.peers[peer]
	if kept == nil {
		for name := range s.peers {
			if len(s.peers) < maxSampled {
				break
			}
			delete(s.peers, name)
		}
		kept = new([keptSamples]exchange)
		s.peers[peer] = kept
	}
	oldest := 0
	for i := range kept {
		if kept[i].at < kept[oldest].at {
			oldest = i
		}
	}
	kept[oldest] = e
}

// Offset implements Estimator.
func (s *samples) Offset(peer string, now session.Instant) (offset, bound time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.peers[peer]
	if kept == nil {
		return 0, 0, false
	}
	for _, e := range kept {
		if e.at == 0 {
			continue
		}
		if b := e.half + drift(now.Sub(e.at)); !ok || b < bound {
			offset, bound, ok = e.offset, b, true
		}
	}
	return offset, bound, ok
}
