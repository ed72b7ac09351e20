// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

type testClock struct {
	boot session.Instant
	wall time.Time
}

func (c *testClock) Boot() session.Instant   { return c.boot }
func (c *testClock) Coarse() session.Instant { return c.boot }
func (c *testClock) Wall() time.Time         { return c.wall }

func (c *testClock) pass(d time.Duration) { c.boot, c.wall = c.boot.Add(d), c.wall.Add(d) }

func newClock() *testClock {
	return &testClock{boot: session.Instant(10 * time.Minute), wall: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
}

func open(t *testing.T, dir, boot string, clock *testClock) *Store {
	t.Helper()
	s, err := Open(Config{Dir: dir, BootID: boot, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stateDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newSession(clock *testClock, left, idle time.Duration) session.Session {
	id := session.NewID()
	s := session.Session{ID: id, Key: session.Key(append(id[:], id[:]...)), Identity: session.Identity{Issuer: "i", Subject: "u"},
		Created: clock.wall, Deadline: clock.wall.Add(left), Until: clock.boot.Add(left), IdleTimeout: idle, LastActive: clock.boot}
	return s
}

func closeStore(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func loadOne(t *testing.T, s *Store) session.Session {
	t.Helper()
	list, err := s.Load()
	if err != nil || len(list) != 1 {
		t.Fatalf("Load: %d sessions, %v", len(list), err)
	}
	return list[0]
}

func TestRestart(t *testing.T) {
	const left, idle = time.Hour, 10 * time.Minute
	tests := []struct {
		name     string
		boot     string
		down     time.Duration // by both clocks
		rebooted bool          // boot time starts anew
		step     time.Duration // of the wall clock while down
		wantLeft time.Duration
		wantIdle time.Duration
	}{
		{name: "same boot", boot: "a", down: time.Minute, wantLeft: left - time.Minute, wantIdle: idle - time.Minute},
		{name: "same boot, wall clock back an hour", boot: "a", down: time.Minute, step: -time.Hour, wantLeft: left - time.Minute, wantIdle: idle - time.Minute},
		{name: "another boot", boot: "b", down: time.Minute, rebooted: true, wantLeft: left - time.Minute, wantIdle: idle - time.Minute},
		{name: "another boot, wall clock back two days", boot: "b", down: time.Minute, rebooted: true, step: -48 * time.Hour, wantLeft: left, wantIdle: idle},
		{name: "another boot, after the end", boot: "b", down: 2 * time.Hour, rebooted: true, wantLeft: -time.Hour, wantIdle: -110 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, clock := stateDir(t), newClock()
			s := open(t, dir, "a", clock)
			v := newSession(clock, left, idle)
			if err := s.Save(v); err != nil {
				t.Fatal(err)
			}
			closeStore(t, s)
			clock.pass(tt.down)
			clock.wall = clock.wall.Add(tt.step)
			if tt.rebooted {
				clock.boot = session.Instant(3 * time.Hour)
			}
			s = open(t, dir, tt.boot, clock)
			defer closeStore(t, s)
			got := loadOne(t, s)
			if have := got.Until.Sub(clock.boot); have != tt.wantLeft {
				t.Errorf("absolute: %v left, want %v", have, tt.wantLeft)
			}
			if have := got.IdleUntil.Sub(clock.boot); have != tt.wantIdle {
				t.Errorf("idle: %v left, want %v", have, tt.wantIdle)
			}
			if got.ID != v.ID || got.Key != v.Key || got.Identity.Subject != "u" {
				t.Errorf("came back as %+v", got)
			}
		})
	}
}

// An end wins over everything that is written later for the same session.
func TestEndIsNeverOverwritten(t *testing.T) {
	dir, clock := stateDir(t), newClock()
	s := open(t, dir, "a", clock)
	v := newSession(clock, time.Hour, 0)
	if err := s.Save(v); err != nil {
		t.Fatal(err)
	}
	ended := v
	ended.Ended = &session.End{Reason: session.ReasonKilled, At: clock.wall}
	s.SaveSoon(v)
	if err := s.Save(ended); err != nil {
		t.Fatal(err)
	}
	s.SaveSoon(v)
	if err := s.Save(v); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	s = open(t, dir, "a", clock)
	defer closeStore(t, s)
	if got := loadOne(t, s); got.Ended == nil || got.Ended.Reason != session.ReasonKilled {
		t.Fatalf("the session came back to life: %+v", got.Ended)
	}
}

func TestDelete(t *testing.T) {
	dir, clock := stateDir(t), newClock()
	s := open(t, dir, "a", clock)
	defer closeStore(t, s)
	v := newSession(clock, time.Hour, 0)
	if err := s.Save(v); err != nil {
		t.Fatal(err)
	}
	s.DeleteSoon(v.ID)
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Load(); err != nil || len(list) != 0 {
		t.Fatalf("%v, %v", list, err)
	}
}

// Whatever byte is damaged: the file is refused as a whole, or what it says is unchanged. It never
// crashes the process and never changes what a session says.
func TestDamagedFile(t *testing.T) {
	dir, clock := stateDir(t), newClock()
	s := open(t, dir, "a", clock)
	want := map[session.ID]bool{}
	for i := range 200 {
		v := newSession(clock, time.Hour, 0)
		if i%2 == 0 {
			v.Ended = &session.End{Reason: session.ReasonKilled, At: clock.wall}
		}
		want[v.ID] = v.Ended != nil
		s.SaveSoon(v)
	}
	closeStore(t, s)
	path := filepath.Join(dir, FileName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	try := func(bad []byte) {
		// A new file each time: where bbolt panics it leaves the old one open and locked.
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Config{Dir: dir, BootID: "a", Clock: clock})
		if err != nil {
			if (!errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "Move the file away")) && !errors.Is(err, ErrFormat) {
				t.Fatalf("unclear error: %v", err)
			}
			refused++
			return
		}
		list, err := s.Load()
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("unclear error: %v", err)
			}
			refused++
		}
		for _, v := range list {
			if ended, known := want[v.ID]; !known || ended != (v.Ended != nil) {
				t.Fatalf("session %v changed: known %v, ended %v", v.ID, known, v.Ended)
			}
		}
		_ = s.Close() // damaged: may not take what is left
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		bad := append([]byte(nil), good...)
		for range 1 + rng.IntN(4) {
			bad[rng.IntN(len(bad))] ^= byte(1 + rng.IntN(255))
		}
		try(bad)
	}
	for _, n := range []int{1, 100, 4096, 5000, 8192, len(good) / 2, len(good) - 1} {
		try(good[:n])
	}
	try([]byte("this is not a database\n"))
	for _, name := range []string{format, string(keyFormat)} {
		at := bytes.LastIndex(good, []byte(name))
		bad := append([]byte(nil), good...)
		bad[at+3] ^= 1
		before := refused
		if try(bad); refused == before {
			t.Errorf("a damaged %q is not noticed", name)
		}
	}
	if refused < 10 {
		t.Fatalf("%d damages were noticed", refused)
	}
}

func TestRefusesOpenStateDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: dir, BootID: "a", Clock: newClock()}); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Fatalf("a state directory that others can read: %v", err)
	}
}

func TestRefusesSecondAgent(t *testing.T) {
	dir, clock := stateDir(t), newClock()
	s := open(t, dir, "a", clock)
	defer closeStore(t, s)
	if _, err := Open(Config{Dir: dir, BootID: "a", Clock: clock}); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Fatalf("second agent: %v", err)
	}
}

// On a full disk nobody signs in, but a kill holds, also through a restart.
func TestFullDisk(t *testing.T) {
	dir, clock := stateDir(t), newClock()
	if err := syscall.Mount("curfew-test", dir, "tmpfs", 0, "size=512k,mode=0700"); err != nil {
		t.Fatal("mount a small file system (this test needs root): ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := open(t, dir, "a", clock)
	v := newSession(clock, time.Hour, 0)
	if err := s.Save(v); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(dir, "filler"))
	full := error(nil)
	for range 200 { // free pages of the file are used up first
		if full = s.Save(newSession(clock, time.Hour, 0)); full != nil {
			break
		}
	}
	if !errors.Is(full, syscall.ENOSPC) {
		t.Fatalf("a full disk took everything, or failed otherwise: %v", full)
	}
	v.Ended = &session.End{Reason: session.ReasonKilled, At: clock.wall}
	if err := s.Save(v); err != nil {
		t.Fatalf("a kill on a full disk: %v", err)
	}
	_ = s.Close() // it cannot write what is left: that is the point
	s = open(t, dir, "a", clock)
	assertEnded(t, s, v.ID)
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	s = open(t, dir, "a", clock)
	defer closeStore(t, s)
	assertEnded(t, s, v.ID)
	if ids := s.journal.ids(); len(ids) != 0 {
		t.Errorf("the journal was not cleared: %v", ids)
	}
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func assertEnded(t *testing.T, s *Store, id session.ID) {
	t.Helper()
	list, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range list {
		if v.ID == id {
			if v.Ended == nil {
				t.Fatal("a session that was killed on a full disk is alive after a restart")
			}
			return
		}
	}
	t.Fatal("the session is gone")
}

func FuzzDecode(f *testing.F) {
	clock := newClock()
	s := &Store{cfg: Config{BootID: "a", Clock: clock}}
	f.Add(s.encode(newSession(clock, time.Hour, time.Minute)))
	f.Add([]byte{})
	f.Add([]byte("\x00\x00\x00\x00{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decode(b)
		if err != nil {
			return
		}
		if v := r.restore("a", clock.boot, clock.wall); v.ID.IsZero() || v.Until <= 0 {
			t.Errorf("accepted %q as %+v", b, v)
		}
	})
}
