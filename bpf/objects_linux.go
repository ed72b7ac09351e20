// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Config says what to load. The zero value of every field but Instance works.
type Config struct {
	// Instance names this agent on the host: the directory of its pins and its cgroup.
	// 1 to 64 characters of a-z, 0-9, '-', '_'.
	Instance string
	// Sessions and Conns are the sizes of the maps: 65,536 and 262,144 if zero.
	Sessions, Conns uint32
	// Unpinned keeps the objects out of bpffs: they end with the process, and there is no
	// break-glass. For probes and tests.
	Unpinned bool
}

var instanceName = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

// Validate reports whether c can be loaded.
func (c *Config) Validate() error {
	if !instanceName.MatchString(c.Instance) {
		return fmt.Errorf("instance %q: want 1 to 64 characters of a-z, 0-9, '-', '_'", c.Instance)
	}
	return nil
}

// Objects are the loaded maps and programs of one instance. They belong to the process that
// loaded them; Sweep and List are safe for concurrent use, the rest is not.
type Objects struct {
	walker
	maps  curfewMaps
	progs curfewPrograms
	gate  []link.Link
	pins  *pinDir // nil if unpinned

	sweepErr error // why there is no sweep program
}

// Load loads the maps and programs, and pins them unless told otherwise. What an instance of
// the same name left behind when it was killed is ended and destroyed first, so that nothing
// of it comes back; Load fails if any of that survives, or if an agent of that name is running
// (ErrRunning). Needs Capabilities; its errors carry hints.
func Load(cfg Config) (_ *Objects, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, hint("raise the memlock limit", err)
	}
	o := &Objects{}
	defer func() {
		if err != nil {
			_ = o.Unpin() // err says what matters
		}
	}()
	if !cfg.Unpinned {
		if o.pins, err = takePinDir(cfg.Instance); err != nil {
			return nil, err
		}
		if err := o.pins.recoverStale(cfg.Instance); err != nil {
			return nil, fmt.Errorf("clear what a killed agent left: %w", err)
		}
	}
	if err := o.load(cfg); err != nil {
		return nil, hint("load programs", err)
	}
	if err := o.attachIterators(); err != nil {
		return nil, hint("attach iterators", err)
	}
	if o.pins != nil {
		err = o.pin()
	}
	return o, err
}

func (o *Objects) load(cfg Config) error {
	spec, err := loadCurfew()
	if err != nil {
		return err
	}
	if cfg.Sessions != 0 {
		spec.Maps["sessions"].MaxEntries = cfg.Sessions
		spec.Maps["labels"].MaxEntries = cfg.Sessions
	}
	if cfg.Conns != 0 {
		spec.Maps["conns"].MaxEntries = cfg.Conns
	}
	var all struct {
		curfewMaps
		curfewPrograms
	}
	if o.sweepErr = spec.LoadAndAssign(&all, nil); o.sweepErr == nil {
		o.maps, o.progs = all.curfewMaps, all.curfewPrograms
		return nil
	}
	// Perhaps all that is missing is bpf_sock_destroy (kernel 6.5).
	var rest struct {
		curfewMaps
		GateIngress *ebpf.Program `ebpf:"gate_ingress"`
		GateEgress  *ebpf.Program `ebpf:"gate_egress"`
		Mark        *ebpf.Program `ebpf:"mark"`
		List        *ebpf.Program `ebpf:"list"`
	}
	if err := spec.LoadAndAssign(&rest, nil); err != nil {
		return err
	}
	o.maps = rest.curfewMaps
	o.progs = curfewPrograms{GateIngress: rest.GateIngress, GateEgress: rest.GateEgress, Mark: rest.Mark, List: rest.List}
	return nil
}

func (o *Objects) attachIterators() (err error) {
	if o.progs.Sweep != nil {
		if o.sweep, err = link.AttachIter(link.IterOptions{Program: o.progs.Sweep}); err != nil {
			return err
		}
	}
	o.list, err = link.AttachIter(link.IterOptions{Program: o.progs.List})
	return err
}

// pinnable is a map or a link.
type pinnable interface{ Pin(path string) error }

func (o *Objects) pin() error {
	all := map[string]pinnable{
		"sessions": o.maps.Sessions, "socks": o.maps.Socks, "conns": o.maps.Conns,
		"labels": o.maps.Labels, "gate_stats": o.maps.GateStats, "list": o.list,
	}
	if o.sweep != nil {
		all["sweep"] = o.sweep
	}
	for name, p := range all {
		if err := p.Pin(filepath.Join(o.pins.path, name)); err != nil {
			return hint("pin "+name, err)
		}
	}
	return nil
}

// AttachGate attaches the gate to the cgroup2 directory dir: it then sees every socket that is
// made by a process in that cgroup from now on. Needs kernel 5.7.
func (o *Objects) AttachGate(dir string) error {
	for _, p := range []struct {
		name   string
		prog   *ebpf.Program
		attach ebpf.AttachType
	}{
		{"gate_ingress", o.progs.GateIngress, ebpf.AttachCGroupInetIngress},
		{"gate_egress", o.progs.GateEgress, ebpf.AttachCGroupInetEgress},
		{"mark", o.progs.Mark, ebpf.AttachCGroupInetSockCreate},
	} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: p.attach, Program: p.prog})
		if err != nil {
			return hint("attach "+p.name, err)
		}
		o.gate = append(o.gate, l)
		if o.pins == nil {
			continue
		}
		if err := l.Pin(filepath.Join(o.pins.path, p.name)); err != nil {
			return hint("pin "+p.name, err)
		}
	}
	return nil
}

// CanDestroy reports whether this kernel has bpf_sock_destroy (6.5), and if not, why the
// program that calls it did not load.
func (o *Objects) CanDestroy() (bool, error) { return o.sweep != nil, o.sweepErr }

// Maps returns duplicates of the map descriptors that NewTagger wants, in its order. The caller
// closes them.
func (o *Objects) Maps() ([]*os.File, error) {
	var files []*os.File
	for _, m := range o.maps.ordered() {
		fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			for _, f := range files {
				_ = f.Close() // the duplication failed already
			}
			return nil, fmt.Errorf("duplicate map descriptor: %w", err)
		}
		files = append(files, os.NewFile(uintptr(fd), m.String()))
	}
	return files, nil
}

// ordered is the order in which map descriptors are handed to the proxy.
func (m *curfewMaps) ordered() []*ebpf.Map {
	return []*ebpf.Map{m.Sessions, m.Socks, m.Conns, m.Labels, m.GateStats}
}

// EndAll ends everything: it empties the session map, so that every tagged socket passes nothing,
// destroys those sockets in the caller's network namespace, and takes all off the books. It returns
// what it did to each socket.
func (o *Objects) EndAll() ([]Record, error) {
	if err := clearMap[uint64](o.maps.Sessions); err != nil {
		return nil, err
	}
	done, err := o.Sweep()
	return done, errors.Join(err, clearMap[uint64](o.maps.Labels), clearMap[curfewTuple](o.maps.Conns))
}

// clearMap deletes every entry of a hash map, also while others insert.
func clearMap[K any](m *ebpf.Map) error {
	var key K
	for {
		err := m.NextKey(nil, &key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("walk map: %w", err)
		}
		if err := m.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("empty map: %w", err)
		}
	}
}

// Close releases the descriptors. What is pinned stays in force: the gate goes on.
func (o *Objects) Close() error {
	var errs []error
	for _, l := range o.gate {
		errs = append(errs, l.Close())
	}
	if o.list != nil {
		errs = append(errs, o.list.Close())
	}
	if o.sweep != nil {
		errs = append(errs, o.sweep.Close())
	}
	errs = append(errs, o.progs.Close(), o.maps.Close())
	if o.pins != nil {
		errs = append(errs, o.pins.unlock())
	}
	return errors.Join(errs...)
}

// Unpin ends the instance: it removes the pins and closes everything. Sockets that are still
// tagged are no longer gated after it, so destroy them first.
func (o *Objects) Unpin() error {
	var err error
	if o.pins != nil {
		err = o.pins.remove()
	}
	return errors.Join(err, o.Close())
}
