// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

func TestFind(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.ready(t)
		v := s.create(t, "n0", 7, time.Hour, 0)
		n2 := s.nodes["n2"]
		if _, err := n2.table.ByKey(v.Key); err == nil {
			t.Fatal("it is known already")
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if !n2.engine.Find(t.Context(), v.Key) {
					t.Error("not found")
				}
			})
		}
		wg.Wait()
		if _, err := n2.table.ByKey(v.Key); err != nil {
			t.Error(err)
		}
		if n := n2.counted(CountFinds); n != 1 {
			t.Errorf("others were asked %d times for one key", n)
		}
		start := time.Now()
		for range 3 {
			if n2.engine.Find(t.Context(), session.Key{99}) {
				t.Error("found what nobody knows")
			}
		}
		if took := time.Since(start); took > 100*time.Millisecond || n2.counted(CountFinds) != 2 {
			t.Errorf("a stranger made the cluster work %d times, %v", n2.counted(CountFinds)-1, took)
		}
		for i := range 1000 {
			n2.engine.Find(t.Context(), session.Key{1, byte(i), byte(i >> 8), 1})
		}
		spent := time.Since(start).Seconds()
		if n, most := n2.counted(CountFinds), findBurst+int(findPerSec*spent)+2; n > most || n2.counted(CountFindsLimited) == 0 {
			t.Errorf("strangers made the cluster work %d times in %v s", n, spent)
		}
		// A node that does not answer costs a second, not the connection's patience.
		s.mu.Lock()
		s.deaf["n1"] = true
		s.mu.Unlock()
		time.Sleep(5 * time.Second)
		start = time.Now()
		n2.engine.Find(t.Context(), session.Key{98})
		if took := time.Since(start); took > findLimit {
			t.Errorf("it took %v", took)
		}
	})
}

// A client that goes away while it is asked for counted as if nobody knew its key, for all who asked with it
// and after it.
func TestFindOutlivesWhoAsksFirst(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.ready(t)
		n0 := s.nodes["n0"]
		s.mu.Lock()
		s.loss = 100 // it is known by asking only
		s.mu.Unlock()
		v := s.create(t, "n1", 1, time.Hour, 0)
		hurried, cancel := context.WithCancel(t.Context())
		first := make(chan bool, 1)
		go func() { first <- n0.engine.Find(hurried, v.Key) }()
		time.Sleep(time.Millisecond / 2)
		cancel()
		if !n0.engine.Find(t.Context(), v.Key) {
			t.Error("not found for somebody who stayed")
		}
		<-first
	})
}

func TestResolve(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 4, func(c *Config) {
			name := c.Timebase.Self().Node
			c.Resolve = func(_ context.Context, request []byte) ([]session.ID, error) {
				if string(request) == "fail" {
					return nil, errors.New("no such service")
				}
				return []session.ID{{1}, {name[1]}}, nil
			}
		})
		s.ready(t)
		e := s.nodes["n0"].engine
		ids, silent := e.Resolve(t.Context(), []byte("service=db"))
		if len(ids) != 4 || len(silent) != 0 {
			t.Errorf("%v, silent %v", ids, silent)
		}
		if _, silent = e.Resolve(t.Context(), []byte("fail")); fmt.Sprint(silent) != "[n1 n2 n3]" {
			t.Errorf("silent %v", silent)
		}
		s.nodes["n1"].down()
		s.mu.Lock()
		s.deaf["n2"] = true
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ids, silent = e.Resolve(ctx, []byte("service=db"))
		if len(ids) != 2 || fmt.Sprint(silent) != "[n1 n2]" {
			t.Errorf("%v, silent %v", ids, silent)
		}
	})
}

// More sessions than fit into one reply were no answer at all: a kill of a large group named every other node
// as silent, and left what only those knew of alive.
func TestResolveMoreThanFitsInAReply(t *testing.T) {
	for _, n := range []int{maxIDs - 1, maxIDs, maxIDs + 1, 2 * maxIDs, 2*maxIDs + 5} {
		all := make([]session.ID, n)
		for i := range all {
			binary.LittleEndian.PutUint32(all[i][:], uint32(i+1)) // not in order
		}
		simulate(t, func(t *testing.T) {
			s := newSim(t, 2, func(c *Config) {
				c.Resolve = func(context.Context, []byte) ([]session.ID, error) { return slices.Concat(all, all[:3]), nil }
			})
			s.ready(t)
			ids, silent := s.nodes["n0"].engine.Resolve(t.Context(), []byte("group=all"))
			if len(silent) != 0 {
				t.Errorf("%d sessions: silent %v", n, silent)
			}
			slices.SortFunc(ids, compareIDs)
			slices.SortFunc(all, compareIDs)
			if !slices.Equal(ids, all) {
				t.Errorf("%d of %d sessions", len(ids), n)
			}
		})
	}
}

// A node that says the same again and again must not keep the one that asks for ever.
func TestResolveOutOfOrderIsRefused(t *testing.T) {
	page := make([]session.ID, maxIDs)
	for i := range page {
		binary.BigEndian.PutUint32(page[i][:], uint32(i+1))
	}
	for name, ids := range map[string][]session.ID{
		"twice": {{1}, {1}}, "backwards": {{2}, {1}}, "zero": {{}}, "the same page again": page,
	} {
		simulate(t, func(t *testing.T) {
			s := newSim(t, 2, func(c *Config) { c.Network = &repeating{Network: c.Network, reply: encodeIDs(kindResolveReply, ids)} })
			s.ready(t)
			if ids, silent := s.nodes["n0"].engine.Resolve(t.Context(), []byte("q")); len(ids) != 0 || len(silent) != 1 {
				t.Errorf("%s: %d sessions, silent %v", name, len(ids), silent)
			}
		})
	}
}

// repeating answers each question which sessions match in the same way.
type repeating struct {
	Network
	reply []byte
}

func (r *repeating) Request(ctx context.Context, to string, request []byte) ([]byte, error) {
	if kind, _, _ := openMessage(request, maxRequest); kind == kindResolve {
		return r.reply, nil
	}
	return r.Network.Request(ctx, to, request)
}
