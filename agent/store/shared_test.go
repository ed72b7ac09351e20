// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"reflect"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/curfew-proxy/curfew/agent/session"
)

// What nodes have in common survives a restart, and so does word of an end that came before the session.
func TestSharedStateIsKept(t *testing.T) {
	dir, clock := stateDir(t), newClock()
	s := open(t, dir, "a", clock)
	v := newSession(clock, time.Hour, time.Minute)
	v.Origin, v.Born, v.Ends, v.Published = session.Origin{Node: "n1", Boot: 7}, 10, 1000, 20
	v.Supersedes, v.Extra = session.NewID(), []byte{1, 2, 3}
	tomb := session.Session{ID: session.NewID(), Origin: v.Origin, Ends: 500, Until: clock.boot.Add(time.Hour),
		Deadline: clock.wall.Add(time.Hour), Ended: &session.End{Reason: session.ReasonKilled, At: clock.wall}}
	if err := s.Save(v, tomb); err != nil {
		t.Fatal(err)
	}
	mark := session.Watermark{Subject: "alice", Origin: v.Origin, Before: 99, End: session.End{Reason: session.ReasonKilled, By: "root", At: clock.wall}}
	for before := range session.OriginTime(3) { // the later one is kept
		mark.Before = 99 + before
		if err := s.SaveWatermark(mark); err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, s)
	s = open(t, dir, "a", clock)
	defer closeStore(t, s)
	marks, err := s.LoadWatermarks()
	if err != nil || len(marks) != 1 || !reflect.DeepEqual(marks[0], mark) {
		t.Errorf("watermarks %+v, %v; want %+v", marks, err, mark)
	}
	list, err := s.Load()
	if err != nil || len(list) != 2 {
		t.Fatalf("%d sessions, %v", len(list), err)
	}
	for _, got := range list {
		if got.ID == tomb.ID {
			if !got.Key.IsZero() || got.Ended == nil || got.Ends != tomb.Ends {
				t.Errorf("tombstone %+v", got)
			}
			continue
		}
		if got.Origin != v.Origin || got.Born != v.Born || got.Ends != v.Ends || got.Published != v.Published ||
			got.Supersedes != v.Supersedes || string(got.Extra) != string(v.Extra) {
			t.Errorf("have %+v, want %+v", got, v)
		}
	}
}

// A file of an agent that knew no clusters is taken over.
func TestOldFormat(t *testing.T) {
	dir, clock := stateDir(t), newClock()
	s := open(t, dir, "a", clock)
	v := newSession(clock, time.Hour, 0)
	if err := s.Save(v); err != nil {
		t.Fatal(err)
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket(bucketMarks); err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).Put(keyFormat, []byte(oldFormat))
	})
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	s = open(t, dir, "a", clock)
	defer closeStore(t, s)
	if got := loadOne(t, s); got.ID != v.ID {
		t.Errorf("have %+v", got)
	}
	if marks, err := s.LoadWatermarks(); err != nil || len(marks) != 0 {
		t.Errorf("%v, %v", marks, err)
	}
}

// One that asks for a fresh sign-in stands beside one that does not. A file from before there were any has those that do not.
func TestFreshIsKept(t *testing.T) {
	dir, clock := stateDir(t), newClock()
	s := open(t, dir, "a", clock)
	plain := session.Watermark{Issuer: "https://idp", Subject: "alice", Before: 9, End: session.End{Reason: session.ReasonKilled, At: clock.wall}}
	old := []byte(`{"Issuer":"https://idp","Subject":"bob","SID":"","Origin":{"Node":"","Boot":0},"Before":9,"Keep":0,"End":{"reason":"killed","at":"2026-01-02T03:04:05Z"}}`)
	err := s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMarks).Put([]byte("https://idp\x00bob\x00\x000000000000000000"), append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(old, castagnoli)), old...))
	})
	if err != nil {
		t.Fatal(err)
	}
	fresh := plain
	fresh.Fresh = 2_000_000_000
	for _, w := range []session.Watermark{plain, fresh} {
		if err := s.SaveWatermark(w); err != nil {
			t.Fatal(err)
		}
	}
	var was session.Watermark
	if err := json.Unmarshal(old, &was); err != nil || was.Subject != "bob" {
		t.Fatal(was, err)
	}
	for _, want := range [][]session.Watermark{{plain, fresh, was}, {fresh, was}} {
		closeStore(t, s)
		s = open(t, dir, "a", clock)
		marks, err := s.LoadWatermarks()
		if err != nil || !reflect.DeepEqual(marks, want) {
			t.Errorf("have %+v, %v\nwant %+v", marks, err, want)
		}
		s.DeleteWatermarkSoon(plain)
	}
	closeStore(t, s)
}

func FuzzDecodeWatermark(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00\x00\x00\x00{}"))
	fresh := []byte(`{"Issuer":"https://idp","Subject":"alice","Before":9,"Fresh":2000000000,"End":{"reason":"killed"}}`)
	f.Add(append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(fresh, castagnoli)), fresh...))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeWatermark(b) // it must not panic
	})
}

// When a watermark was heard of is known in another boot, too; with a wall clock set back it is later, not earlier.
func TestWatermarkIsDatedThroughAReboot(t *testing.T) {
	for _, step := range []time.Duration{0, -time.Hour} {
		dir, clock := stateDir(t), newClock()
		s := open(t, dir, "a", clock)
		w := session.Watermark{Subject: "alice", Before: 9, End: session.End{Reason: session.ReasonKilled}, Learned: clock.boot.Add(-time.Minute)}
		if err := s.SaveWatermark(w); err != nil {
			t.Fatal(err)
		}
		for boot, want := range map[string]time.Duration{"a": 3 * time.Minute, "b": max(3*time.Minute+step, 0)} {
			closeStore(t, s)
			later := &testClock{boot: clock.boot.Add(2 * time.Minute), wall: clock.wall.Add(2*time.Minute + step)}
			s = open(t, dir, boot, later)
			marks, err := s.LoadWatermarks()
			if err != nil || len(marks) != 1 || later.boot.Sub(marks[0].Learned) != want {
				t.Errorf("boot %s, wall clock %v: %+v, %v; want %v ago", boot, step, marks, err, want)
			}
		}
		closeStore(t, s)
	}
}

// A fault it keeps out: on a full disk, word of the end of a session that had not been heard of yet was acknowledged,
// and forgotten in a restart.
func TestJournalKeepsTheEndOfAnUnknownSession(t *testing.T) {
	dir, clock := stateDir(t), newClock()
	id := session.NewID()
	s := open(t, dir, "a", clock)
	if err := s.journal.add(id); err != nil { // as Save does when the file takes nothing
		t.Fatal(err)
	}
	closeStore(t, s)
	for range 2 { // it waits to be written the first time, and is in the file the second time
		s = open(t, dir, "a", clock)
		got := loadOne(t, s)
		if got.ID != id || got.Ended == nil || got.Until.Sub(clock.boot) < session.MaxLifetime {
			t.Errorf("%+v", got)
		}
		closeStore(t, s)
	}
	if s = open(t, dir, "a", clock); len(s.journal.ids()) != 0 {
		t.Error("the journal was not cleared")
	}
	closeStore(t, s)
}
