// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"sync"
	"time"
)

// Alarm wakes the table's loop at an instant. One goroutine waits; any may set.
type Alarm interface {
	// Set replaces the instant at which Wait returns. An instant that has passed makes it return
	// at once; zero disarms.
	Set(at Instant)
	// Wait blocks until the alarm goes off or ctx is done, and returns ctx's error then.
	Wait(ctx context.Context) error
}

// TimerAlarm is an Alarm on the Go runtime's timers. Those round up to a millisecond and stand
// still in suspend: it serves where no timerfd is to be had.
type TimerAlarm struct {
	clock Clock
	fired chan struct{}

	mu    sync.Mutex
	timer *time.Timer
}

// NewTimerAlarm returns a disarmed alarm that reads clock.
func NewTimerAlarm(clock Clock) *TimerAlarm {
	return &TimerAlarm{clock: clock, fired: make(chan struct{}, 1)}
}

// Set implements Alarm.
func (a *TimerAlarm) Set(at Instant) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
	}
	if at == 0 {
		return
	}
	a.timer = time.AfterFunc(at.Sub(a.clock.Boot()), func() {
		select {
		case a.fired <- struct{}{}:
		default:
		}
	})
}

// Wait implements Alarm.
func (a *TimerAlarm) Wait(ctx context.Context) error {
	select {
	case <-a.fired:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
