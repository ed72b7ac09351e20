// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"

	"github.com/curfew-proxy/curfew/agent/session"
)

const (
	// killRounds is how often a socket that survives is destroyed again.
	killRounds = 3
	// fewSockets is up to how many sockets are looked up and destroyed one by one. For more, a
	// sweep comes first: it needs 0.5 us for each TCP socket of the host, but half as much for each
	// that it destroys and verifies.
	fewSockets = 256
)

// Killer destroys sockets that somebody asks for who is not trusted: having made sure that they were
// made in the gated cgroup or are tagged, and checking afterwards that they are gone. It works in
// the network namespace it was made in. Not safe for concurrent use: its buffers are reused, so that
// a kill of few sockets allocates next to nothing.
type Killer struct {
	objects   *Objects
	destroyer *Destroyer
	cgroupID  uint64

	outcomes []Outcome // of the request

	// The sockets of the request that are still to be destroyed: index in it, name, last result.
	at      []int
	socks   []session.Socket
	results []Outcome
}

// NewKiller makes a Killer for sockets of the cgroup at dir. It uses o and d, and owns neither.
func NewKiller(o *Objects, d *Destroyer, dir string) (*Killer, error) {
	id, err := CgroupID(dir)
	if err != nil {
		return nil, err
	}
	return &Killer{objects: o, destroyer: d, cgroupID: id}, nil
}

// Kill destroys socks and returns what became of each: Destroyed, Gone (it was gone already),
// Refused (it is a stranger's), Survived (three times), or Failed. The slice is valid until the next
// call. An error says that the kernel could not be asked; then the outcomes say nothing good. Many
// are destroyed fastest if their session was ended before (Tagger.End). Takes some 25 us for one
// socket, and 5 us each for many.
func (k *Killer) Kill(socks []session.Socket) ([]Outcome, error) {
	k.outcomes = append(k.outcomes[:0], make([]Outcome, len(socks))...)
	if len(socks) > fewSockets {
		if err := k.sweep(socks); err != nil {
			return k.outcomes, err
		}
	}
	k.at, k.socks = k.at[:0], k.socks[:0]
	for i, s := range socks {
		if k.outcomes[i] == Untouched {
			k.at, k.socks = append(k.at, i), append(k.socks, s)
		}
	}
	if err := k.keepPresent(); err != nil {
		return k.outcomes, err
	}
	for range killRounds {
		if len(k.at) == 0 {
			break
		}
		if err := k.destroy(); err != nil {
			return k.outcomes, err
		}
		if err := k.keepPresent(); err != nil {
			return k.outcomes, err
		}
	}
	return k.outcomes, nil
}

// sweep destroys, of socks, those whose session has ended: nobody needs to be trusted for that.
func (k *Killer) sweep(socks []session.Socket) error {
	done, err := k.objects.Sweep()
	if err != nil {
		return err
	}
	swept := make(map[uint64]struct{}, len(done))
	for _, r := range done {
		if r.Outcome == Destroyed {
			swept[r.Socket.Cookie] = struct{}{}
		}
	}
	for i, s := range socks {
		if _, ok := swept[s.Cookie]; ok {
			k.outcomes[i] = Destroyed
		}
	}
	return nil
}

// keepPresent looks up the sockets that are still to be destroyed, and keeps those that are there
// and were made in the gated cgroup. The others have their outcome with that.
func (k *Killer) keepPresent() error {
	k.results = append(k.results[:0], make([]Outcome, len(k.at))...)
	err := k.destroyer.Check(k.cgroupID, k.socks, k.results)
	n := 0
	for j, result := range k.results {
		at := k.at[j]
		switch {
		case result == Untouched:
			if k.outcomes[at] != Untouched {
				k.outcomes[at] = Survived
			}
			k.at[n], k.socks[n] = at, k.socks[j]
			n++
		case result == Gone && k.outcomes[at] == Destroyed: // as it should be
		default:
			k.outcomes[at] = result
		}
	}
	k.at, k.socks = k.at[:n], k.socks[:n]
	if err != nil {
		return fmt.Errorf("look sockets up: %w", err)
	}
	return nil
}

func (k *Killer) destroy() error {
	k.results = append(k.results[:0], make([]Outcome, len(k.at))...)
	err := k.destroyer.Destroy(k.socks, k.results)
	for j, at := range k.at {
		k.outcomes[at] = k.results[j]
	}
	if err != nil {
		return fmt.Errorf("destroy sockets: %w", err)
	}
	return nil
}
