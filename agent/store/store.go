// SPDX-License-Identifier: Apache-2.0

// Package store keeps sessions across restarts of the agent, in a bbolt file.
//
// It owns the file's format and nothing else: what a record means is for agent/session to say.
// An instant of CLOCK_BOOTTIME means nothing in another boot, so a record carries the wall
// clock beside it, and the file carries the latest wall clock seen, so that a clock set back
// does not lengthen a session by more than the time the agent was down.
package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/curfew-proxy/curfew/agent/session"
)

// File names in the state directory.
const (
	FileName    = "sessions.db"
	JournalName = "ended.journal"
)

// ErrCorrupt is wrapped by errors of Open and Load that mean the file cannot be trusted.
var ErrCorrupt = errors.New("the session file is damaged")

// ErrFormat is returned by Open for a session file that an agent of another version has written.
var ErrFormat = errors.New("the session file is of another version")

var (
	bucketSessions = []byte("sessions")
	bucketMeta     = []byte("meta")
	bucketMarks    = []byte("watermarks")
	bucketTokens   = []byte("tokens")
	keyFormat      = []byte("format")
	keyWall        = []byte("wall") // latest wall clock seen
)

// format is of what is written. What oldFormat is of can be read too: it knows no clusters.
const (
	format    = "curfew-sessions-2"
	oldFormat = "curfew-sessions-1"
)

var anyFormat = regexp.MustCompile(`^curfew-sessions-[0-9]+$`)

// flushInterval is how long SaveSoon and DeleteSoon may take to reach the file.
const flushInterval = time.Second

// batchDelay is how long a Save waits for others to share its fsync.
const batchDelay = 2 * time.Millisecond

// Config of a Store.
type Config struct {
	Dir    string // the state directory: must exist, mode 0700
	BootID string // of this boot
	Clock  session.Clock
	// OnError hears of what SaveSoon and DeleteSoon could not write; it is tried again.
	OnError func(error)
}

// Store is a session.Store. It is safe for concurrent use. Run must be running for SaveSoon and
// DeleteSoon to reach the file before Close.
type Store struct {
	cfg     Config
	db      *bbolt.DB
	journal *journal

	mu      sync.Mutex
	pending map[session.ID]*session.Session // nil: delete
	gone    deletions
}

// Open opens or creates the file, checks all of it, and applies what the journal holds. Returns an
// error that wraps ErrCorrupt if the file is damaged: nothing in it is believed then.
func Open(cfg Config) (*Store, error) {
	if err := checkDir(cfg.Dir); err != nil {
		return nil, err
	}
	path := filepath.Join(cfg.Dir, FileName)
	db, err := openDB(path)
	if err != nil {
		return nil, err
	}
	db.MaxBatchDelay = batchDelay
	s := &Store{cfg: cfg, db: db, pending: map[session.ID]*session.Session{}}
	if err := s.prepare(); err != nil {
		_ = db.Close() // the error at hand says more
		return nil, err
	}
	s.journal, err = openJournal(filepath.Join(cfg.Dir, JournalName))
	if err == nil {
		err = s.applyJournal()
	}
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	return s, nil
}

func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("state directory %s: not a directory", dir)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("state directory %s: mode %04o lets others in; run: chmod 700 %s", dir, mode, dir)
	}
	return nil
}

// prepare writes the format into a new file and checks it in an old one.
func (s *Store) prepare() error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		fresh := tx.Bucket(bucketMeta) == nil
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(bucketSessions); err != nil {
			return err
		}
		for _, name := range [][]byte{bucketMarks, bucketTokens} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		switch have := string(meta.Get(keyFormat)); {
		case have == format:
			return nil
		case fresh, have == oldFormat:
			return meta.Put(keyFormat, []byte(format))
		case !anyFormat.MatchString(have):
			return fmt.Errorf("%w: it is of format %q", ErrCorrupt, have)
		default:
			return fmt.Errorf("%w: it is of format %q, this agent writes %q: use the agent that wrote it", ErrFormat, have, format)
		}
	})
	switch {
	case errors.Is(err, ErrCorrupt):
		return damaged(s.db.Path(), err)
	case err != nil:
		return fmt.Errorf("prepare %s: %w", s.db.Path(), err)
	}
	return nil
}

// Save implements session.Store. An end that the file does not take (a full disk) goes to the
// journal, whose space is reserved: Save succeeds then, since a restart will know.
func (s *Store) Save(list ...session.Session) error {
	for _, v := range list {
		s.forgetPending(v)
	}
	err := s.db.Batch(func(tx *bbolt.Tx) error {
		for _, v := range list {
			if err := s.put(tx, v); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("write %s: %w", s.db.Path(), err)
	var lost []error
	for _, v := range list {
		if v.Ended == nil {
			lost = append(lost, err)
		} else if jerr := s.journal.add(v.ID); jerr != nil {
			lost = append(lost, err, jerr)
		} else {
			s.SaveSoon(v)
		}
	}
	return errors.Join(lost...)
}

// forgetPending drops what is waiting for the session and is older than v.
func (s *Store) forgetPending(v session.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.pending[v.ID]; ok && (p == nil || p.Ended == nil || v.Ended != nil) {
		delete(s.pending, v.ID)
	}
}

// SaveSoon implements session.Store.
func (s *Store) SaveSoon(v session.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.pending[v.ID]; ok && (p == nil || p.Ended != nil) {
		return // its end, or its deletion, is waiting already
	}
	s.pending[v.ID] = &v
}

// DeleteSoon implements session.Store.
func (s *Store) DeleteSoon(id session.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[id] = nil
}

// Run writes what waits, every second, until ctx is done; then once more.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.flush()
		case <-tick.C:
			if err := s.flush(); err != nil && s.cfg.OnError != nil {
				s.cfg.OnError(err)
			}
		}
	}
}

// flush writes what waits in one transaction, and puts it back if that does not work.
func (s *Store) flush() error {
	s.mu.Lock()
	batch, gone := s.pending, s.gone
	s.pending, s.gone = map[session.ID]*session.Session{}, deletions{}
	s.mu.Unlock()
	if len(batch) == 0 && gone.empty() {
		return nil
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for id, v := range batch {
			if v == nil {
				if err := tx.Bucket(bucketSessions).Delete(id[:]); err != nil {
					return err
				}
			} else if err := s.put(tx, *v); err != nil {
				return err
			}
		}
		return gone.apply(tx)
	})
	if err == nil {
		return s.journal.clearIfApplied(s)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone.add(gone)
	for id, v := range batch {
		if newer, ok := s.pending[id]; !ok || (newer != nil && newer.Ended == nil && v != nil && v.Ended != nil) {
			s.pending[id] = v
		}
	}
	return fmt.Errorf("write %s: %w", s.db.Path(), err)
}

// Close closes the files. What SaveSoon and DeleteSoon left is written first.
func (s *Store) Close() error {
	return errors.Join(s.flush(), s.journal.Close(), s.db.Close())
}
