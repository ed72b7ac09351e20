// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"go.etcd.io/bbolt"

	"github.com/curfew-proxy/curfew/agent/session"
)

// record is a session as it is in the file: 4 bytes of CRC-32C, then JSON.
type record struct {
	session.Session
	BootID     string          `json:"boot_id"`
	Until      session.Instant `json:"until_boot_ns"`
	LastActive session.Instant `json:"last_active_boot_ns"`
	// LastActiveWall is LastActive as wall time, for another boot.
	LastActiveWall time.Time `json:"last_active"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// put writes v, unless the file says that the session has ended: an end is never overwritten.
func (s *Store) put(tx *bbolt.Tx, v session.Session) error {
	b := tx.Bucket(bucketSessions)
	if v.Ended == nil {
		if old := b.Get(v.ID[:]); old != nil {
			r, err := decode(old)
			if err != nil {
				return err
			}
			if r.Ended != nil {
				return nil
			}
		}
	}
	if err := s.putWall(tx); err != nil {
		return err
	}
	return b.Put(v.ID[:], s.encode(v))
}

// putWall moves the latest wall clock seen forward, never back.
func (s *Store) putWall(tx *bbolt.Tx) error {
	now := s.cfg.Clock.Wall()
	if latest(tx).After(now) {
		return nil
	}
	return tx.Bucket(bucketMeta).Put(keyWall, binary.BigEndian.AppendUint64(nil, uint64(now.UnixNano())))
}

// latest is the latest wall clock that the file has seen.
func latest(tx *bbolt.Tx) time.Time {
	b := tx.Bucket(bucketMeta).Get(keyWall)
	if len(b) != 8 {
		return time.Time{}
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(b)))
}

func (s *Store) encode(v session.Session) []byte {
	now, wall := s.cfg.Clock.Boot(), s.cfg.Clock.Wall()
	r := record{Session: v, BootID: s.cfg.BootID, Until: v.Until, LastActive: v.LastActive,
		LastActiveWall: wall.Add(-now.Sub(v.LastActive))}
	body, err := json.Marshal(r)
	if err != nil {
		panic("encode a session: " + err.Error()) // nothing in it can fail to encode
	}
	return append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(body, castagnoli)), body...)
}

func decode(b []byte) (record, error) {
	var r record
	if len(b) < 4 || crc32.Checksum(b[4:], castagnoli) != binary.BigEndian.Uint32(b) {
		return r, fmt.Errorf("%w: a record's checksum does not match", ErrCorrupt)
	}
	if err := json.Unmarshal(b[4:], &r); err != nil {
		return r, fmt.Errorf("%w: a record: %w", ErrCorrupt, err)
	}
	tombstone := r.Key.IsZero() && r.Ended != nil
	if r.ID.IsZero() || r.Deadline.IsZero() || !tombstone && (r.Key.IsZero() || r.Identity.Subject == "") {
		return r, fmt.Errorf("%w: a record lacks its id, key, subject or deadline", ErrCorrupt)
	}
	return r, nil
}

// Load returns every session in the file, with its instants as of this boot. A session of another boot
// keeps the time it had left by the wall clock, counted from the latest wall clock that the
// file has seen if the clock has been set back since.
func (s *Store) Load() ([]session.Session, error) {
	var list []session.Session
	ends := s.pendingEnds()
	err := s.db.View(func(tx *bbolt.Tx) error {
		boot, wall := s.cfg.Clock.Boot(), s.cfg.Clock.Wall()
		if seen := latest(tx); seen.After(wall) {
			wall = seen
		}
		return tx.Bucket(bucketSessions).ForEach(func(k, b []byte) error {
			r, err := decode(b)
			if err != nil {
				return fmt.Errorf("session %x: %w", k, err)
			}
			v := r.restore(s.cfg.BootID, boot, wall)
			if ended, ok := ends[v.ID]; ok {
				v.Ended = ended.Ended
				delete(ends, v.ID)
			}
			list = append(list, v)
			return nil
		})
	})
	if err != nil {
		return nil, damaged(s.db.Path(), err)
	}
	for _, v := range ends { // of sessions that the file does not know
		list = append(list, v)
	}
	return list, nil
}

// pendingEnds are the ended sessions that wait to be written, as after a journal was read.
func (s *Store) pendingEnds() map[session.ID]session.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	ends := map[session.ID]session.Session{}
	for id, v := range s.pending {
		if v != nil && v.Ended != nil {
			ends[id] = *v
		}
	}
	return ends
}

// restore translates the record's instants into this boot's.
func (r record) restore(bootID string, boot session.Instant, wall time.Time) session.Session {
	v := r.Session
	if r.BootID == bootID {
		v.Until, v.LastActive = r.Until, min(r.LastActive, boot)
	} else {
		v.Until = boot.Add(r.Deadline.Sub(wall))
		v.LastActive = min(boot.Add(r.LastActiveWall.Sub(wall)), boot)
	}
	v.Until = max(v.Until, 1) // zero would mean "none"
	if v.IdleTimeout > 0 {
		v.IdleUntil = max(v.LastActive.Add(v.IdleTimeout), 1)
	}
	return v
}

func damaged(path string, err error) error {
	if !errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return fmt.Errorf("%s: %w; no session in it is honoured. Move the file away and start again: everybody signs in anew", path, err)
}

// get reads one session as it is in the file.
func (s *Store) get(id session.ID) (session.Session, bool, error) {
	var r record
	found := false
	err := s.db.View(func(tx *bbolt.Tx) (err error) {
		if b := tx.Bucket(bucketSessions).Get(id[:]); b != nil {
			found = true
			r, err = decode(b)
		}
		return err
	})
	if err != nil {
		return session.Session{}, false, damaged(s.db.Path(), err)
	}
	return r.restore(s.cfg.BootID, s.cfg.Clock.Boot(), s.cfg.Clock.Wall()), found, nil
}
