// SPDX-License-Identifier: Apache-2.0

package session

// Digest sums up what a table knows, so that two nodes find out what they know differently by
// exchanging little: 65,536 leaves, each the XOR of the hashes of the sessions whose ID begins with its
// number, in 256 buckets, each the XOR of its leaves. A change costs two XORs.
type Digest struct {
	leaves  [1 << 16]uint64
	buckets [1 << 8]uint64
}

// Fold returns the buckets.
func (d *Digest) Fold() [256]uint64 { return d.buckets }

// Leaves returns the leaves of a bucket.
func (d *Digest) Leaves(bucket byte) (leaves [256]uint64) {
	copy(leaves[:], d.leaves[int(bucket)<<8:])
	return leaves
}

// LeafOf is the number of the leaf that a session is in.
func LeafOf(id ID) uint16 { return uint16(id[0])<<8 | uint16(id[1]) }

// toggle adds a session with a hash that is not in, or takes it out if it is in; zero: nothing.
func (d *Digest) toggle(id ID, hash uint64) {
	leaf := LeafOf(id)
	d.leaves[leaf] ^= hash
	d.buckets[leaf>>8] ^= hash
}
