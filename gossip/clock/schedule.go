// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"slices"
	"time"
)

// Pace of exchanges.
const (
	pace       = 100 * time.Millisecond // between exchanges, over all peers
	burst      = 4                      // exchanges with a peer that is new
	burstPace  = 50 * time.Millisecond  // between those
	burstLimit = 2 * time.Millisecond   // between any two exchanges, when many peers are new
)

// Schedule says which peer to exchange readings with next: a new one 4 times within 200 ms as soon as it is
// seen, then all in turn, 10 a second, so that each of N has its turn every N/10 seconds. When hundreds of
// peers are new at once their bursts go at 500 a second. It reads no clock and is not safe for concurrent
// use. The zero value has no peers.
type Schedule[T Reading] struct {
	peers []turn[T] // the next in turn is the first
	next  T         // when it is its turn
	last  T         // the latest exchange
}

// turn is a peer and what is left of its burst.
type turn[T Reading] struct {
	name string
	left int
	due  T // of the burst
}

// Peers sets whom to exchange readings with. Those that were not there before are new; the others keep their
// turns.
func (s *Schedule[T]) Peers(names []string, now T) {
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
	}
	s.peers = slices.DeleteFunc(s.peers, func(p turn[T]) bool { return !wanted[p.name] })
	for _, p := range s.peers {
		delete(wanted, p.name)
	}
	for _, name := range names { // in the order given
		if wanted[name] {
			delete(wanted, name)
			s.peers = append(s.peers, turn[T]{name, burst, now})
		}
	}
}

// Again gives a peer a burst as if it were new: its clock is needed now, or is another one.
func (s *Schedule[T]) Again(name string, now T) {
	for i := range s.peers {
		if p := &s.peers[i]; p.name == name && p.left == 0 {
			p.left, p.due = burst, now
		}
	}
}

// Next returns the peer to exchange readings with now, or "" if there is none, and how long to wait before
// asking again; with no peers at all, until Peers has brought one.
func (s *Schedule[T]) Next(now T) (peer string, wait time.Duration) {
	if len(s.peers) == 0 {
		return "", pace
	}
	if wait = s.spacing(now); wait > 0 {
		return "", wait
	}
	if i := s.newest(); i >= 0 && s.peers[i].due <= now {
		p := &s.peers[i]
		p.left--
		p.due = now + T(burstPace)
		peer = p.name
	} else if s.next <= now {
		peer = s.turn(now)
	}
	if peer != "" {
		s.last = now
	}
	return peer, max(s.wait(now), s.spacing(now))
}

// spacing is how long to wait whoever's turn it is.
func (s *Schedule[T]) spacing(now T) time.Duration {
	if s.last == 0 {
		return 0
	}
	return min(time.Duration(s.last-now)+burstLimit, burstLimit)
}

// newest is the peer whose burst is due first, or -1.
func (s *Schedule[T]) newest() int {
	first := -1
	for i, p := range s.peers {
		if p.left > 0 && (first < 0 || p.due < s.peers[first].due) {
			first = i
		}
	}
	return first
}

// turn takes the first to the end. What was missed while nobody asked is not made up for.
func (s *Schedule[T]) turn(now T) string {
	s.next = max(s.next+T(pace), now+T(pace/2))
	first := s.peers[0]
	s.peers = append(s.peers[1:], first)
	return first.name
}

func (s *Schedule[T]) wait(now T) time.Duration {
	at := s.next
	if i := s.newest(); i >= 0 {
		at = min(at, s.peers[i].due)
	}
	return max(time.Duration(at-now), 0)
}
