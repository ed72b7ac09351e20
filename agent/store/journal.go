// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"github.com/curfew-proxy/curfew/agent/session"
)

// journal holds the ids of sessions whose end the session file did not take because the disk was
// full. Its space is allocated when it is created, so that writing to it needs none.
//
// Layout: slots of 20 bytes, an id and its CRC-32C; a zero slot is free.
type journal struct {
	file *os.File

	mu   sync.Mutex
	used []session.ID
}

const (
	journalSlots = 4096
	slotSize     = 20
)

func openJournal(path string) (*journal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &journal{file: file}
	if err := j.load(); err != nil {
		_ = file.Close() // the error at hand says more
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	return j, nil
}

func (j *journal) load() error {
	// Mode 0 allocates blocks and zeroes them, and leaves what is there (Linux 2.6.23).
	if err := syscall.Fallocate(int(j.file.Fd()), 0, 0, journalSlots*slotSize); err != nil {
		return fmt.Errorf("reserve space: %w", err)
	}
	buf := make([]byte, journalSlots*slotSize)
	if _, err := j.file.ReadAt(buf, 0); err != nil {
		return err
	}
	for ; len(buf) > 0; buf = buf[slotSize:] {
		var id session.ID
		copy(id[:], buf)
		if id.IsZero() {
			break
		}
		// A slot that was written in part was never acknowledged: it is skipped.
		if binary.BigEndian.Uint32(buf[len(id):]) == crc32.Checksum(id[:], castagnoli) {
			j.used = append(j.used, id)
		}
	}
	return nil
}

// add makes an id durable.
func (j *journal) add(id session.ID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.used) == journalSlots {
		return errors.New("journal of ended sessions: it is full: make room on the disk")
	}
	slot := binary.BigEndian.AppendUint32(append([]byte{}, id[:]...), crc32.Checksum(id[:], castagnoli))
	if _, err := j.file.WriteAt(slot, int64(len(j.used)*slotSize)); err != nil {
		return fmt.Errorf("journal of ended sessions: %w", err)
	}
	if err := syscall.Fdatasync(int(j.file.Fd())); err != nil {
		return fmt.Errorf("journal of ended sessions: %w", err)
	}
	j.used = append(j.used, id)
	return nil
}

func (j *journal) ids() []session.ID {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]session.ID(nil), j.used...)
}

// clearIfApplied empties the journal once the session file says of every id in it that it ended.
func (j *journal) clearIfApplied(s *Store) error {
	ids := j.ids()
	if len(ids) == 0 {
		return nil
	}
	applied := true
	err := s.db.View(func(tx *bbolt.Tx) error {
		for _, id := range ids {
			b := tx.Bucket(bucketSessions).Get(id[:])
			if b == nil {
				continue // deleted since: forgotten is ended
			}
			r, err := decode(b)
			if err != nil {
				return err
			}
			applied = applied && r.Ended != nil
		}
		return nil
	})
	if err != nil || !applied {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.used) != len(ids) {
		return nil // one more came meanwhile
	}
	if _, err := j.file.WriteAt(make([]byte, len(ids)*slotSize), 0); err != nil {
		return fmt.Errorf("clear journal: %w", err)
	}
	j.used = nil
	return syscall.Fdatasync(int(j.file.Fd()))
}

func (j *journal) Close() error { return j.file.Close() }

// applyJournal writes into the session file what the journal holds, if the disk has room again; Load
// reports those sessions as ended either way.
func (s *Store) applyJournal() error {
	for _, id := range s.journal.ids() {
		v, ok, err := s.get(id)
		if err != nil {
			return err
		}
		if !ok { // word of its end came from another node before word of the session, or it is forgotten
			v = session.Session{ID: id, Deadline: s.cfg.Clock.Wall().Add(session.MaxLifetime), Until: s.cfg.Clock.Boot().Add(session.MaxLifetime)}
		}
		if v.Ended == nil {
			v.Ended = &session.End{Reason: session.ReasonKilled, Message: "ended while the disk was full", At: s.cfg.Clock.Wall().Round(time.Second)}
			s.SaveSoon(v)
		}
	}
	return nil
}
