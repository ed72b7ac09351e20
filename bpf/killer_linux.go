// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"

	"github.com/curfew-proxy/curfew/agent/session"
)

const (
	// killRounds is how often a socket that survives is destroyed again.
	killRounds = 3
	// fewSockets is up to how many sockets are looked up one by one (about 2 us each); beyond,
	// one pass over all TCP sockets (0.6 ms and 0.5 us each) is cheaper.
	fewSockets = 256
)

// Killer destroys sockets that somebody asks for who is not trusted: having made sure that they are
// of the gated cgroup or tagged, and checking afterwards that they are gone. It works in the
// network namespace it was made in. Not safe for concurrent use: its buffers are reused, so that a
// kill of few sockets allocates next to nothing.
type Killer struct {
	objects   *Objects
	destroyer *Destroyer
	cgroupID  uint64

	looked   picked // sockets found by look-up
	listed   picked // sockets found among the tagged ones
	cookies  map[uint64]struct{}
	results  []Outcome
	outcomes []Outcome
}

// NewKiller makes a Killer for sockets of the cgroup at dir. It uses o and d, and owns neither.
func NewKiller(o *Objects, d *Destroyer, dir string) (*Killer, error) {
	id, err := CgroupID(dir)
	if err != nil {
		return nil, err
	}
	return &Killer{objects: o, destroyer: d, cgroupID: id, cookies: map[uint64]struct{}{}}, nil
}

// picked is a selection of the sockets of a request.
type picked struct {
	at    []int // index in the request
	socks []session.Socket
}

func (p *picked) reset()                       { p.at, p.socks = p.at[:0], p.socks[:0] }
func (p *picked) add(at int, s session.Socket) { p.at, p.socks = append(p.at, at), append(p.socks, s) }

// Kill destroys socks and returns what became of each: Destroyed, Gone (it was gone already),
// Refused (it is a stranger's), Survived (three times), or Failed. The slice is valid until the next
// call. An error says that the kernel could not be asked; then the outcomes say nothing good. Takes
// some 25 us for one socket, and 5 us each for many.
func (k *Killer) Kill(socks []session.Socket) ([]Outcome, error) {
	k.outcomes = append(k.outcomes[:0], make([]Outcome, len(socks))...)
	if err := k.classify(socks); err != nil {
		for i := range k.outcomes {
			k.outcomes[i] = Failed
		}
		return k.outcomes, err
	}
	for range killRounds {
		if len(k.looked.at)+len(k.listed.at) == 0 {
			return k.outcomes, nil
		}
		if err := k.destroy(&k.looked); err != nil {
			return k.outcomes, err
		}
		if err := k.destroy(&k.listed); err != nil {
			return k.outcomes, err
		}
		if err := k.keepSurvivors(); err != nil {
			return k.outcomes, err
		}
	}
	return k.outcomes, nil
}

// classify sorts the sockets into those that are the proxy's (looked, listed) and those that are
// gone or refused, which have their outcome with that.
func (k *Killer) classify(socks []session.Socket) error {
	k.looked.reset()
	k.listed.reset()
	if len(socks) > fewSockets {
		if err := k.list(); err != nil {
			return err
		}
	}
	for i, s := range socks {
		// Only who holds a socket can tag it, so a tagged one is the proxy's.
		if _, tagged := k.cookies[s.Cookie]; tagged && len(socks) > fewSockets {
			k.listed.add(i, s)
		} else {
			k.looked.add(i, s)
		}
	}
	return k.keepPresent(&k.looked)
}

// keepPresent looks the sockets of p up and keeps those that exist and were made in the gated
// cgroup. The others get their outcome, unless it says already that they were destroyed.
func (k *Killer) keepPresent(p *picked) error {
	k.results = append(k.results[:0], make([]Outcome, len(p.at))...)
	if err := k.destroyer.Check(k.cgroupID, p.socks, k.results); err != nil {
		return fmt.Errorf("look sockets up: %w", err)
	}
	n := 0
	for j, result := range k.results {
		at := p.at[j]
		switch {
		case result == Untouched:
			k.survives(at)
			p.at[n], p.socks[n] = at, p.socks[j]
			n++
		case k.outcomes[at] != Destroyed:
			k.outcomes[at] = result
		}
	}
	p.at, p.socks = p.at[:n], p.socks[:n]
	return nil
}

// survives notes that a socket is there, after it was destroyed if it was.
func (k *Killer) survives(at int) {
	if k.outcomes[at] != Untouched {
		k.outcomes[at] = Survived
	}
}

func (k *Killer) destroy(p *picked) error {
	k.results = append(k.results[:0], make([]Outcome, len(p.at))...)
	err := k.destroyer.Destroy(p.socks, k.results)
	for j, at := range p.at {
		k.outcomes[at] = k.results[j]
	}
	if err != nil {
		return fmt.Errorf("destroy sockets: %w", err)
	}
	return nil
}

// keepSurvivors drops from looked and listed what is gone.
func (k *Killer) keepSurvivors() error {
	if err := k.keepPresent(&k.looked); err != nil {
		return err
	}
	if len(k.listed.at) == 0 {
		return nil
	}
	if err := k.list(); err != nil {
		return err
	}
	n := 0
	for j, at := range k.listed.at {
		if _, there := k.cookies[k.listed.socks[j].Cookie]; there {
			k.survives(at)
			k.listed.at[n], k.listed.socks[n] = at, k.listed.socks[j]
			n++
		}
	}
	k.listed.at, k.listed.socks = k.listed.at[:n], k.listed.socks[:n]
	return nil
}

func (k *Killer) list() error {
	clear(k.cookies)
	if err := k.objects.Cookies(k.cookies); err != nil {
		return fmt.Errorf("list tagged sockets: %w", err)
	}
	return nil
}
