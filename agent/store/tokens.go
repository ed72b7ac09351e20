// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/curfew-proxy/curfew/agent/session"
)

// PutTokens implements identity.Sealed: it keeps what is sealed, and cannot tell what that is.
func (s *Store) PutTokens(id session.ID, sealed []byte) error {
	s.mu.Lock()
	s.gone.tokens = slices.DeleteFunc(s.gone.tokens, func(gone session.ID) bool { return gone == id })
	s.mu.Unlock()
	if err := s.db.Batch(func(tx *bbolt.Tx) error { return tx.Bucket(bucketTokens).Put(id[:], sealed) }); err != nil {
		return fmt.Errorf("write %s: %w", s.db.Path(), err)
	}
	return nil
}

// DeleteTokensSoon implements identity.Sealed.
func (s *Store) DeleteTokensSoon(id session.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone.tokens = append(s.gone.tokens, id)
}

// LoadTokens implements identity.Sealed.
func (s *Store) LoadTokens() (map[session.ID][]byte, error) {
	list := map[session.ID][]byte{}
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketTokens).ForEach(func(k, b []byte) error {
			if len(k) != len(session.ID{}) {
				return fmt.Errorf("%w: tokens of %d bytes of a session's name", ErrCorrupt, len(k))
			}
			list[session.ID(k)] = bytes.Clone(b)
			return nil
		})
	})
	if err != nil {
		return nil, damaged(s.db.Path(), err)
	}
	return list, nil
}
