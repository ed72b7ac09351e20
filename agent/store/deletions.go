// SPDX-License-Identifier: Apache-2.0

package store

import (
	"go.etcd.io/bbolt"

	"github.com/curfew-proxy/curfew/agent/session"
)

// deletions are what is to go from the file, beside sessions, when it is written next.
type deletions struct {
	marks  []session.Watermark
	tokens []session.ID
}

func (d *deletions) empty() bool { return len(d.marks) == 0 && len(d.tokens) == 0 }

func (d *deletions) add(more deletions) {
	d.marks, d.tokens = append(d.marks, more.marks...), append(d.tokens, more.tokens...)
}

// apply deletes; watermarks only if they have not been raised again since.
func (d *deletions) apply(tx *bbolt.Tx) error {
	b := tx.Bucket(bucketMarks)
	for i := range d.marks {
		key := markKey(&d.marks[i])
		m, err := decodeWatermark(b.Get(key))
		if err != nil || m.Before > d.marks[i].Before {
			continue // it is not there, or newer
		}
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	for _, id := range d.tokens {
		if err := tx.Bucket(bucketTokens).Delete(id[:]); err != nil {
			return err
		}
	}
	return nil
}
