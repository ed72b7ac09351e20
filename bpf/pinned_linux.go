// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Pinned is the break-glass: an instance reached through its pins alone, with its processes
// hung, stopped or dead. What it ends stays ended: the entries it deletes cannot be moved back.
// Not safe for concurrent use; safe beside a running agent.
type Pinned struct {
	walker
	instance string
	maps     curfewMaps
	cgroupID uint64 // of the gate; 0 if it was never attached
}

// PinnedSession is a session as the maps know it.
type PinnedSession struct {
	Number   uint64
	Label    Label
	Deadline session.Instant
	Dropped  Dropped
	Conns    int // sockets on the books, two to a connection
}

// PinnedReport says what an end by break-glass did.
type PinnedReport struct {
	Sessions  []PinnedSession // that were ended
	Shut      session.Instant // when the last of them passed nothing any more; zero if an error came before
	Destroyed []Record        // the sockets, also those of sessions that had ended before
	Left      []Record        // ended sockets that survived; their gate is shut
}

// Instances lists the names of the instances that have pins on this host.
func Instances() ([]string, error) {
	root, err := findBPFFS()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(root, "curfew"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, hint("read pin directory", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// OpenPinned opens an instance by its pins. It refuses a directory that others than root could
// have filled. Returns os.ErrNotExist if there is none of that name. An agent that was started in
// a mount namespace of its own, as by `ip netns exec`, may have its pins there: view names
// processes of it.
func OpenPinned(instance string, view ...int) (*Pinned, error) {
	if err := (&Config{Instance: instance}).Validate(); err != nil {
		return nil, err
	}
	root, err := findBPFFS(view...)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(root, "curfew", instance)
	dir, err := os.Open(path)
	if err != nil {
		return nil, hint("open pin directory", err)
	}
	defer func() { _ = dir.Close() }() // read only
	if err := (&pinDir{path: path, lock: dir}).verify(); err != nil {
		return nil, err
	}
	return openPinnedDir(path, instance)
}

func openPinnedDir(path, instance string) (_ *Pinned, err error) {
	p := &Pinned{instance: instance}
	defer func() {
		if err != nil {
			_ = p.Close() // err says what matters
		}
	}()
	for name, m := range map[string]**ebpf.Map{
		"sessions": &p.maps.Sessions, "socks": &p.maps.Socks, "conns": &p.maps.Conns,
		"labels": &p.maps.Labels, "gate_stats": &p.maps.GateStats,
	} {
		if *m, err = ebpf.LoadPinnedMap(filepath.Join(path, name), nil); err != nil {
			return nil, hint("open pinned map "+name, err)
		}
	}
	if p.list, err = loadPinnedIter(filepath.Join(path, "list")); err != nil {
		return nil, err
	}
	p.sweep, err = loadPinnedIter(filepath.Join(path, "sweep"))
	if err != nil && !errors.Is(err, os.ErrNotExist) { // not there before kernel 6.5
		return nil, err
	}
	p.cgroupID, err = gatedCgroup(filepath.Join(path, "gate_egress"))
	return p, err
}

func loadPinnedIter(path string) (*link.Iter, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return nil, hint("open pinned iterator", err)
	}
	it, ok := l.(*link.Iter)
	if !ok {
		_ = l.Close() // not what was asked for
		return nil, fmt.Errorf("%s is a %T, not an iterator", path, l)
	}
	return it, nil
}

// gatedCgroup reads from the pinned link which cgroup the gate is attached to.
func gatedCgroup(path string) (uint64, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, hint("open pinned gate", err)
	}
	defer func() { _ = l.Close() }() // a descriptor; the pin stays
	info, err := l.Info()
	if err != nil {
		return 0, hint("pinned gate", err)
	}
	if c := info.Cgroup(); c != nil {
		return c.CgroupId, nil
	}
	return 0, nil
}

// Close releases the descriptors; pins and enforcement stay.
func (p *Pinned) Close() error {
	var errs []error
	for _, it := range []*link.Iter{p.sweep, p.list} {
		if it != nil {
			errs = append(errs, it.Close())
		}
	}
	return errors.Join(append(errs, p.maps.Close())...)
}

// Sessions lists what is registered.
func (p *Pinned) Sessions() ([]PinnedSession, error) {
	conns, err := p.connCounts()
	if err != nil {
		return nil, err
	}
	var (
		out    []PinnedSession
		number uint64
		s      curfewSession
	)
	it := p.maps.Sessions.Iterate()
	for it.Next(&number, &s) {
		var l curfewLabel
		if err := p.maps.Labels.Lookup(&number, &l); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("label of session %d: %w", number, err)
		}
		subject, _, _ := bytes.Cut(l.Subject[:], []byte{0})
		out = append(out, PinnedSession{
			Number:   number,
			Label:    Label{Session: l.SessionId, Subject: string(subject)},
			Deadline: session.Instant(s.DeadlineBootNs),
			Dropped:  Dropped{Packets: s.DroppedPackets, Bytes: s.DroppedBytes},
			Conns:    conns[number],
		})
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("walk sessions: %w", err)
	}
	return out, nil
}

func (p *Pinned) connCounts() (map[uint64]int, error) {
	counts := map[uint64]int{}
	var (
		key curfewTuple
		c   curfewConn
	)
	it := p.maps.Conns.Iterate()
	for it.Next(&key, &c) {
		counts[c.Number]++
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("walk connections: %w", err)
	}
	return counts, nil
}

// End ends the sessions that match picks, destroys their sockets in every network namespace that
// the instance's processes are in, and checks that none is left. An error comes with the report
// of what was done.
func (p *Pinned) End(match func(PinnedSession) bool) (PinnedReport, error) {
	all, err := p.Sessions()
	if err != nil {
		return PinnedReport{}, err
	}
	var r PinnedReport
	for _, s := range all {
		if !match(s) {
			continue
		}
		if err := p.maps.Sessions.Delete(&s.Number); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return r, fmt.Errorf("end session %d: %w", s.Number, err)
		}
		_ = p.maps.Labels.Delete(&s.Number) // a stale label harms nobody
		r.Sessions = append(r.Sessions, s)
	}
	r.Shut = Now()
	return r, p.destroyEnded(&r)
}

// EndAll ends everything: every tagged socket passes nothing from here on.
func (p *Pinned) EndAll() (PinnedReport, error) {
	var r PinnedReport
	if err := clearMap[uint64](p.maps.Sessions); err != nil {
		return r, err
	}
	r.Shut = Now()
	return r, p.destroyEnded(&r)
}

// ErrLeft: ended sockets are left. Their gate is shut, and the sweep goes on trying.
var ErrLeft = errors.New("sockets of ended sessions are left")

func (p *Pinned) destroyEnded(r *PinnedReport) error {
	spaces, err := p.namespaces()
	if err != nil {
		return err
	}
	for _, ns := range spaces {
		if err := inNamespace(ns, func() error { return p.destroyHere(r) }); err != nil {
			return err
		}
	}
	if len(r.Left) > 0 {
		return fmt.Errorf("%d: %w", len(r.Left), ErrLeft)
	}
	return nil
}

// destroyHere is destroyEnded for the calling thread's network namespace. A socket that is listed may
// have ended only since the sweep, for deadlines pass all the time: left is what another sweep
// leaves, too.
func (p *Pinned) destroyHere(r *PinnedReport) error {
	var suspects map[uint64]bool // by cookie
	for {
		done, err := p.Sweep()
		r.Destroyed = append(r.Destroyed, done...)
		if err != nil {
			return err
		}
		left, err := p.collect(p.list, func(rec *curfewRecord) bool {
			return Verdict(rec.Verdict) != Alive && (suspects == nil || suspects[rec.Cookie])
		})
		if err != nil {
			return err
		}
		if suspects != nil || len(left) == 0 {
			r.Left = append(r.Left, left...)
			return nil
		}
		suspects = make(map[uint64]bool, len(left))
		for i := range left {
			suspects[left[i].Socket.Cookie] = true
		}
	}
}
