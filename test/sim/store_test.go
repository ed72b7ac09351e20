// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// store is the disk of a node: it takes a while, and a crash loses what was to be saved soon.
type store struct {
	mu       sync.Mutex
	sessions map[session.ID]session.Session
	marks    map[[3]string]session.Watermark
	soon     map[session.ID]*session.Session // nil: to be deleted
}

const (
	diskTime   = time.Millisecond
	flushEvery = time.Second
)

func newStore() *store {
	return &store{sessions: map[session.ID]session.Session{}, marks: map[[3]string]session.Watermark{}, soon: map[session.ID]*session.Session{}}
}

// read returns what a process that starts finds.
func (s *store) read() (sessions []session.Session, marks []session.Watermark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.sessions)), slices.Collect(maps.Values(s.marks))
}

// Save implements session.Store.
func (s *store) Save(list ...session.Session) error {
	time.Sleep(diskTime)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range list {
		if waits := s.soon[v.ID]; v.Ended != nil || waits != nil && waits.Ended == nil {
			delete(s.soon, v.ID)
		}
		s.putLocked(v)
	}
	return nil
}

func (s *store) putLocked(v session.Session) {
	if old, ok := s.sessions[v.ID]; !ok || old.Ended == nil || v.Ended != nil {
		s.sessions[v.ID] = v
	}
}

// SaveSoon and DeleteSoon implement session.Store.
func (s *store) SaveSoon(v session.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, waits := s.soon[v.ID]; waits && (old == nil || old.Ended != nil) {
		return
	}
	s.soon[v.ID] = &v
}

func (s *store) DeleteSoon(id session.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.soon[id] = nil
}

// SaveWatermark implements session.WatermarkStore.
func (s *store) SaveWatermark(w session.Watermark) error {
	time.Sleep(diskTime)
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [3]string{w.Issuer, w.Subject, w.Origin.Node}
	if w.Before > s.marks[key].Before {
		s.marks[key] = w
	}
	return nil
}

// DeleteWatermarkSoon implements session.WatermarkStore.
func (s *store) DeleteWatermarkSoon(w session.Watermark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.marks, [3]string{w.Issuer, w.Subject, w.Origin.Node})
}

// run flushes until ctx is done; whether once more then is for the caller to say.
func (s *store) run(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.flush()
		}
	}
}

func (s *store) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, v := range s.soon {
		if v == nil {
			delete(s.sessions, id)
		} else {
			s.putLocked(*v)
		}
	}
	clear(s.soon)
}

// crash loses what was to be saved soon, and returns the sessions of which an end was.
func (s *store) crash() (lost []session.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, v := range s.soon {
		if v != nil && v.Ended != nil {
			lost = append(lost, id)
		}
	}
	clear(s.soon)
	return lost
}
