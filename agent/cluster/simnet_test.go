// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"time"
)

// way returns the node at the other end, and after which delays a packet arrives there; none: it is lost.
func (s *sim) way(from, to string, lossy bool) (*simNode, []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	node := s.nodes[to]
	if node == nil || s.part[from] != s.part[to] || s.deaf[from] || s.deaf[to] || lossy && s.rng.IntN(100) < s.loss {
		return node, nil
	}
	delays := []time.Duration{s.delay/4 + time.Duration(s.rng.Int64N(int64(s.delay)))}
	if lossy && s.rng.IntN(100) < s.dup {
		delays = append(delays, 10*s.delay)
	}
	return node, delays
}

// Send implements Network.
func (n *simNode) Send(to string, data []byte) error {
	if len(data) > maxMessage {
		return errors.New("too long")
	}
	node, delays := n.sim.way(n.name, to, true)
	for _, d := range delays {
		n.sim.wait.Go(func() {
			time.Sleep(d)
			if e, up := node.running(); up {
				e.Receive(n.name, append([]byte(nil), data...))
			}
		})
	}
	return nil
}

// Request implements Network.
func (n *simNode) Request(ctx context.Context, to string, data []byte) ([]byte, error) {
	node, delays := n.sim.way(n.name, to, false)
	if len(delays) == 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	type answer struct {
		b   []byte
		err error
	}
	answers := make(chan answer, 1)
	n.sim.wait.Go(func() {
		time.Sleep(2 * delays[0])
		e, up := node.running()
		if !up {
			answers <- answer{nil, errors.New("connection refused")}
			return
		}
		b, err := e.Serve(n.name, data)
		answers <- answer{b, err}
	})
	select {
	case a := <-answers:
		return a.b, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Broadcast implements Network: three members now, and those tell three more if it is news to them.
func (n *simNode) Broadcast(_ string, data []byte) error {
	if len(data) > maxGossip {
		return errors.New("too long")
	}
	n.sim.mu.Lock()
	names := append([]string(nil), n.sim.names...)
	n.sim.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	n.sim.mu.Unlock()
	for _, to := range names[:min(3, len(names))] {
		node, delays := n.sim.way(n.name, to, true)
		for _, d := range delays {
			n.sim.wait.Go(func() {
				time.Sleep(100*time.Millisecond + d)
				if e, up := node.running(); up && e.Gossiped(append([]byte(nil), data...)) {
					_ = node.Broadcast("", data)
				}
			})
		}
	}
	return nil
}
