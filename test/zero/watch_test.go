// SPDX-License-Identifier: Apache-2.0

//go:build linux

package zero

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
	"github.com/curfew-proxy/curfew/lab"
)

// watch keeps what the kernel's session map said last of each session: the deadline that it enforces,
// and what the gate has dropped.
type watch struct {
	pinned *bpf.Pinned
	stop   chan struct{}
	done   chan struct{}

	mu   sync.Mutex
	last map[session.ID]bpf.PinnedSession
	err  error
}

// watchInterval is far below the time between an idle lease's last move and its end.
const watchInterval = 2 * time.Millisecond

func startWatch(t *testing.T, instance string) *watch {
	t.Helper()
	p, err := bpf.OpenPinned(instance)
	if err != nil {
		t.Fatal(err)
	}
	w := &watch{pinned: p, stop: make(chan struct{}), done: make(chan struct{}), last: map[session.ID]bpf.PinnedSession{}}
	go w.run()
	t.Cleanup(func() {
		close(w.stop)
		<-w.done
		if err := errors.Join(w.err, p.Close()); err != nil {
			t.Errorf("watch sessions: %v", err)
		}
	})
	return w
}

func (w *watch) run() {
	defer close(w.done)
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
		list, err := w.pinned.Sessions()
		w.mu.Lock()
		for _, s := range list {
			w.last[s.Label.Session] = s
		}
		w.err = err // a map that changes while it is read is read again
		w.mu.Unlock()
	}
}

func (w *watch) of(id session.ID) bpf.PinnedSession {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last[id]
}

// armed returns nil once the stack's own timers are set on both sockets of each session.
func armed(h *lab.Host, instance string, numbers map[uint64]bool) error {
	return h.Do(func() error {
		p, err := bpf.OpenPinned(instance)
		if err != nil {
			return err
		}
		defer p.Close()
		list, err := p.List()
		if err != nil {
			return err
		}
		have := 0
		for _, r := range list {
			if numbers[r.Number] && r.Armed {
				have++
			}
		}
		if have < 2*len(numbers) {
			return fmt.Errorf("%d of %d sockets are armed", have, 2*len(numbers))
		}
		return nil
	})
}

// timeWaitTimer marks a memory of a socket, no socket: it carries no payload, and answers with a reset.
// The state alone does not tell, for it may be that of FIN_WAIT2 (get_timewait4_sock in
// net/ipv4/tcp_ipv4.c).
const timeWaitTimer = "03:"

// sockets lists the TCP sockets of the network namespace of a process, as the kernel's own list has
// them: local and remote port, in hexadecimal.
func sockets(pid int) (map[string]bool, error) {
	list := map[string]bool{}
	for _, name := range []string{"tcp", "tcp6"} {
		body, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/net/" + name)
		if err != nil {
			return nil, err
		}
		for _, line := range strings.Split(string(body), "\n")[1:] {
			f := strings.Fields(line)
			if len(f) > 5 && !strings.HasPrefix(f[5], timeWaitTimer) {
				list[portOf(f[1])+portOf(f[2])] = true
			}
		}
	}
	return list, nil
}

func portOf(address string) string { return address[strings.LastIndexByte(address, ':'):] }

func (f flow) ports() string { return fmt.Sprintf(":%04X:%04X", f.local.Port(), f.remote.Port()) }
