// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"hash/maphash"
	"sync"
)

// seen remembers what was gossiped lately, in two generations.
type seen struct {
	seed maphash.Seed

	mu       sync.Mutex
	now, old map[uint64]bool
}

const seenSize = 16_384

func newSeen() *seen { return &seen{seed: maphash.MakeSeed(), now: map[uint64]bool{}} }

// add reports whether the message was not seen before.
func (s *seen) add(hash uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now[hash] || s.old[hash] {
		return false
	}
	if len(s.now) >= seenSize {
		s.now, s.old = map[uint64]bool{}, s.now
	}
	s.now[hash] = true
	return true
}
