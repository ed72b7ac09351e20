// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"time"

	"go.etcd.io/bbolt"

	"github.com/curfew-proxy/curfew/agent/session"
)

// mark is a watermark as it is in the file. When it was heard of is there by both clocks, as a session's instants are.
type mark struct {
	session.Watermark
	BootID      string          `json:"boot_id,omitempty"`
	Learned     session.Instant `json:"learned_boot_ns,omitzero"`
	LearnedWall time.Time       `json:"learned,omitzero"`
}

// SaveWatermark implements session.WatermarkStore.
func (s *Store) SaveWatermark(w session.Watermark) error {
	m := mark{Watermark: w}
	if w.Learned != 0 {
		m.BootID, m.Learned = s.cfg.BootID, w.Learned
		m.LearnedWall = s.cfg.Clock.Wall().Add(-s.cfg.Clock.Boot().Sub(w.Learned))
	}
	body, err := json.Marshal(m)
	if err != nil {
		panic("encode a watermark: " + err.Error()) // nothing in it can fail to encode
	}
	value := append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(body, castagnoli)), body...)
	err = s.db.Batch(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMarks).Put(markKey(&w), value) })
	if err != nil {
		return fmt.Errorf("write %s: %w", s.db.Path(), err)
	}
	return nil
}

// DeleteWatermarkSoon implements session.WatermarkStore.
func (s *Store) DeleteWatermarkSoon(w session.Watermark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone.marks = append(s.gone.marks, w)
}

// markKey is where a watermark stands in the file. One that is about no session of a provider's, and asks for no fresh
// sign-in, has the key that it had before there were others.
func markKey(w *session.Watermark) []byte {
	key := fmt.Appendf(nil, "%s\x00%s\x00%s\x00%016x", w.Issuer, w.Subject, w.Origin.Node, w.Origin.Boot)
	if w.SID != "" {
		key = fmt.Appendf(key, "\x00%s", w.SID)
	}
	if w.Fresh != 0 {
		key = append(key, "\x00\x00fresh"...) // no SID begins so: it is printable, or UnnamedSID
	}
	return key
}

// LoadWatermarks returns every watermark in the file.
func (s *Store) LoadWatermarks() (list []session.Watermark, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMarks).ForEach(func(_, b []byte) error {
			m, err := decodeWatermark(b)
			list = append(list, m.restore(s.cfg.BootID, s.cfg.Clock))
			return err
		})
	})
	if err != nil {
		return nil, damaged(s.db.Path(), err)
	}
	return list, nil
}

// restore translates when the watermark was heard of into this boot's clock. Of a wall clock that has been set back
// the result is later: that ends more, not less.
func (m mark) restore(bootID string, clock session.Clock) session.Watermark {
	w := m.Watermark
	switch {
	case m.LearnedWall.IsZero(): // not known
	case m.BootID == bootID:
		w.Learned = m.Learned
	default:
		now := clock.Boot()
		w.Learned = min(now.Add(m.LearnedWall.Sub(clock.Wall())), now)
	}
	return w
}

func decodeWatermark(b []byte) (w mark, err error) {
	if len(b) < 4 || crc32.Checksum(b[4:], castagnoli) != binary.BigEndian.Uint32(b) {
		return w, fmt.Errorf("%w: a watermark's checksum does not match", ErrCorrupt)
	}
	if err := json.Unmarshal(b[4:], &w); err != nil {
		return w, fmt.Errorf("%w: a watermark: %w", ErrCorrupt, err)
	}
	return w, nil
}
