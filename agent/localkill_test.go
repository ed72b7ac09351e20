// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// A connection was let in while the kills before that of its session were still being made durable by
// somebody else's call.
func TestHeedWaitsForKillsUnderWay(t *testing.T) {
	dir := t.TempDir()
	l := &localKills{path: filepath.Join(dir, localKillsFile)}
	if err := (localKill{Subject: "alice"}).leaveWord(dir); err != nil {
		t.Fatal(err)
	}
	started, finish := make(chan struct{}), make(chan struct{})
	applied := false // guarded by what is tested
	var first sync.WaitGroup
	first.Go(func() {
		err := l.heed(func(localKill) error {
			close(started)
			<-finish
			applied = true
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-started
	second := make(chan bool)
	go func() {
		if err := l.heed(func(localKill) error { return nil }); err != nil {
			t.Error(err)
		}
		second <- applied
	}()
	select {
	case <-second:
		t.Error("returned while the kill was being carried out")
	case <-time.After(50 * time.Millisecond):
		close(finish)
		if !<-second {
			t.Error("returned before the kill was carried out")
		}
	}
	first.Wait()
}

// An agent that starts while somebody runs kill --local takes the file away: no word may be lost.
func TestSettleLosesNoWord(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	heard := map[string]bool{}
	hear := func(k localKill) error {
		mu.Lock()
		defer mu.Unlock()
		heard[k.Subject] = true
		return nil
	}
	var writers sync.WaitGroup
	const each = 50
	for w := range 4 {
		writers.Go(func() {
			for i := range each {
				if err := (localKill{Subject: fmt.Sprintf("%d-%d", w, i)}).leaveWord(dir); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for over := false; !over; {
		select {
		case <-done:
			over = true
		case <-time.After(20 * time.Millisecond): // leaveWord gives up on an agent that does nothing but start
		}
		l := &localKills{path: filepath.Join(dir, localKillsFile)}
		if err := l.settle(hear); err != nil {
			t.Fatal(err)
		}
	}
	if len(heard) != 4*each {
		t.Errorf("heard %d words of %d", len(heard), 4*each)
	}
}
