// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// loop waits for the sockets of many flows with one epoll instance and one goroutine. The
// instance itself is waited for by Go's own poller, so that no thread is blocked.
type loop struct {
	epfd int
	file *os.File // owns epfd
	raw  syscall.RawConn

	mu    sync.Mutex
	slots []slot
	free  []int32
}

// slot is what an epoll event names: its index and generation, so that an event of a socket that
// was closed earlier in the same batch finds nothing.
type slot struct {
	flow       *flow
	generation int32
}

func newLoop() (*loop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(epfd, true); err != nil { // or os would not poll it
		unix.Close(epfd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	file := os.NewFile(uintptr(epfd), "epoll")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &loop{epfd: epfd, file: file, raw: raw}, nil
}

// run moves payload until stop.
func (l *loop) run() {
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := l.wait(events)
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			if f := l.flow(e.Fd, e.Pad>>1); f != nil {
				f.handle(int(e.Pad&1), e.Events)
			}
		}
	}
}

// wait returns the next events. It lets others run before it sleeps: what they cause meanwhile
// costs no wakeup (5 % of the processor time of small requests under load).
func (l *loop) wait(events []unix.EpollEvent) (n int, err error) {
	if n = pollNow(l.epfd, events); n > 0 {
		return n, nil
	}
	runtime.Gosched()
	err = l.raw.Read(func(fd uintptr) bool {
		n = pollNow(int(fd), events)
		return n > 0
	})
	return n, err
}

// pollNow returns the events there are, without waiting.
func pollNow(epfd int, events []unix.EpollEvent) int {
	n, _ := unix.EpollWait(epfd, events, 0) // fails with EINTR only, which is no events
	return max(n, 0)
}

// stop ends run. No flow may be left.
func (l *loop) stop() { l.file.Close() }

// reserve gives f a slot, where no event finds it yet.
func (l *loop) reserve(f *flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.free); n > 0 {
		f.slot = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		f.slot = int32(len(l.slots))
		l.slots = append(l.slots, slot{})
	}
	f.generation = l.slots[f.slot].generation
}

// publish lets events find f.
func (l *loop) publish(f *flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots[f.slot].flow = f
}

// remove frees f's slot.
func (l *loop) remove(f *flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.slots[f.slot]
	s.flow = nil
	s.generation = (s.generation + 1) & (1<<30 - 1)
	l.free = append(l.free, f.slot)
}

func (l *loop) flow(index, generation int32) *flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.slots[index]; s.generation == generation {
		return s.flow
	}
	return nil
}

// control changes what is waited for on one end of f.
func (l *loop) control(op int, f *flow, end int) error {
	e := &f.ends[end]
	event := unix.EpollEvent{Events: e.mask, Fd: f.slot, Pad: f.generation<<1 | int32(end)}
	if err := unix.EpollCtl(l.epfd, op, e.fd, &event); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}
