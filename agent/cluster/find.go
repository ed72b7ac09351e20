// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

const (
	findLimit    = time.Second
	findPerSec   = 20
	findBurst    = 40
	findMissAge  = time.Second // how long it is believed that nobody knows a key
	findMissSize = 4096
)

// finds keeps strangers from making the cluster work for them: one question per key at a time, an answer
// that nobody knows it counts for a while, and there are so many questions a second.
type finds struct {
	mu      sync.Mutex
	running map[session.Key]*find
	missed  map[session.Key]session.Instant
	tokens  float64
	filled  session.Instant
}

type find struct {
	done  chan struct{}
	found bool // once done is closed
}

func newFinds() *finds {
	return &finds{running: map[session.Key]*find{}, missed: map[session.Key]session.Instant{}, tokens: findBurst}
}

// Find asks all live members for a session of a key that this node does not know, and takes it over. It
// reports whether the table knows one now, which may have ended. It takes a second at most; of callers with
// the same key the first sees that second through whatever becomes of its ctx, as the others count on its answer.
func (e *Engine) Find(ctx context.Context, key session.Key) bool {
	f, mine := e.finds.begin(key, e.cfg.Clock.Boot())
	switch {
	case f == nil:
		e.cfg.Count(CountFindsLimited, 1)
		return false
	case mine:
		f.found = e.ask(key)
		e.finds.end(key, f, e.cfg.Clock.Boot())
		return f.found
	}
	select {
	case <-f.done:
		return f.found
	case <-ctx.Done():
		return false
	}
}

// begin returns the question about a key, and whether the caller has to ask it; nil: it must not be asked.
func (s *finds) begin(key session.Key, now session.Instant) (f *find, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.running[key]; f != nil {
		return f, false
	}
	if at, ok := s.missed[key]; ok && now.Sub(at) < findMissAge {
		return nil, false
	}
	s.tokens = min(s.tokens+now.Sub(s.filled).Seconds()*findPerSec, findBurst)
	s.filled = now
	if s.tokens < 1 {
		return nil, false
	}
	s.tokens--
	f = &find{done: make(chan struct{})}
	s.running[key] = f
	return f, true
}

func (s *finds) end(key session.Key, f *find, now session.Instant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, key)
	close(f.done)
	if f.found {
		return
	}
	if len(s.missed) >= findMissSize {
		clear(s.missed)
	}
	s.missed[key] = now
}

// ask asks everyone, and is done with the first who knows the key.
func (e *Engine) ask(key session.Key) bool {
	e.cfg.Count(CountFinds, 1)
	ctx, cancel := context.WithTimeout(e.lifetime, findLimit)
	defer cancel()
	live := e.livePeers()
	answers := make(chan bool, len(live))
	for _, p := range live {
		go func() { answers <- e.askOne(ctx, p, key) }()
	}
	found := false
	for range live { // all of them: what was started is waited for
		if <-answers && !found {
			found = true
			e.cfg.Count(CountFound, 1)
			cancel()
		}
	}
	return found
}

func (e *Engine) askOne(ctx context.Context, p *peer, key session.Key) bool {
	body, err := e.request(ctx, p, encodeFind(key), kindFindReply)
	if err != nil {
		return false
	}
	c, err := decodeCarrier(body)
	if err != nil || len(c.state) == 0 {
		return false
	}
	_, _ = e.adopt(ctx, p, c.state) // the table is what counts
	_, ok := e.cfg.Table.RecordOf(key)
	return ok
}
