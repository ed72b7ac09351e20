// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"

	"github.com/curfew-proxy/curfew/agent/session"
)

// SaveWatermark implements session.WatermarkStore.
func (s *Store) SaveWatermark(w session.Watermark) error {
	body, err := json.Marshal(w)
	if err != nil {
		panic("encode a watermark: " + err.Error()) // nothing in it can fail to encode
	}
	value := append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(body, castagnoli)), body...)
	key := fmt.Appendf(nil, "%s\x00%s\x00%s\x00%016x", w.Issuer, w.Subject, w.Origin.Node, w.Origin.Boot)
	err = s.db.Batch(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMarks).Put(key, value) })
	if err != nil {
		return fmt.Errorf("write %s: %w", s.db.Path(), err)
	}
	return nil
}

// LoadWatermarks returns every watermark in the file.
func (s *Store) LoadWatermarks() (list []session.Watermark, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMarks).ForEach(func(_, b []byte) error {
			w, err := decodeWatermark(b)
			list = append(list, w)
			return err
		})
	})
	if err != nil {
		return nil, damaged(s.db.Path(), err)
	}
	return list, nil
}

func decodeWatermark(b []byte) (w session.Watermark, err error) {
	if len(b) < 4 || crc32.Checksum(b[4:], castagnoli) != binary.BigEndian.Uint32(b) {
		return w, fmt.Errorf("%w: a watermark's checksum does not match", ErrCorrupt)
	}
	if err := json.Unmarshal(b[4:], &w); err != nil {
		return w, fmt.Errorf("%w: a watermark: %w", ErrCorrupt, err)
	}
	return w, nil
}
