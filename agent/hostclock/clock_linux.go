// SPDX-License-Identifier: Apache-2.0

// Package hostclock reads the clocks of this host and wakes at an instant of CLOCK_BOOTTIME.
package hostclock

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Clock is the host's session.Clock. The zero Clock works.
type Clock struct {
	// WallOffset is added to the wall clock: tests have agents whose clocks are wrong.
	WallOffset time.Duration
}

// Boot reads CLOCK_BOOTTIME by a system call: a third of a microsecond.
func (Clock) Boot() session.Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock_gettime(CLOCK_BOOTTIME): " + err.Error()) // since Linux 2.6.39; no deadline holds without it
	}
	return session.Instant(ts.Nano())
}

// anchor pairs a reading of CLOCK_BOOTTIME with the runtime's cheap monotonic clock.
type anchor struct {
	boot session.Instant
	mono time.Time
}

var lastAnchor atomic.Pointer[anchor]

// Coarse implements session.Clock: the monotonic clock since the last anchor, which is at most a second
// old, so that what suspend adds is missing for a second at the most.
func (c Clock) Coarse() session.Instant {
	now := time.Now()
	if a := lastAnchor.Load(); a != nil {
		if since := now.Sub(a.mono); since < time.Second {
			return a.boot.Add(since)
		}
	}
	a := &anchor{boot: c.Boot(), mono: time.Now()}
	lastAnchor.Store(a)
	return a.boot
}

// Wall reads the wall clock.
func (c Clock) Wall() time.Time { return time.Now().Add(c.WallOffset) }

// BootID names this boot of the host: an Instant means nothing in another.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Alarm is a session.Alarm on a timerfd of CLOCK_BOOTTIME: it counts suspend, and is not rounded
// to milliseconds as the Go runtime's timers are when the process is otherwise idle.
type Alarm struct {
	file *os.File
	fd   int // of file; valid while file is open
}

// NewAlarm returns a disarmed alarm. Close it after use.
func NewAlarm() (*Alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create timerfd: %w", err)
	}
	return &Alarm{file: os.NewFile(uintptr(fd), "timerfd"), fd: fd}, nil
}

// Set implements session.Alarm.
func (a *Alarm) Set(at session.Instant) {
	if at < 0 {
		at = 1
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(at))}
	// The only errors are a bad descriptor (closed: nobody waits) and a bad value (excluded above).
	_ = unix.TimerfdSettime(a.fd, unix.TFD_TIMER_ABSTIME, &spec, nil)
}

// Wait implements session.Alarm.
func (a *Alarm) Wait(ctx context.Context) error {
	if err := a.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("wait for timerfd: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = a.file.SetReadDeadline(time.Now()) }) // wakes the read
	defer stop()
	var buf [8]byte
	_, err := a.file.Read(buf[:])
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("wait for timerfd: %w", err)
	}
	return nil
}

// Close frees the descriptor.
func (a *Alarm) Close() error { return a.file.Close() }
