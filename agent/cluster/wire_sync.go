// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/binary"
	"fmt"

	"github.com/curfew-proxy/curfew/agent/session"
)

// buckets is how many digests of the first level there are, and leaves how many are below each.
const (
	buckets = 256
	leaves  = 256
)

// digestRequest opens a round of anti-entropy: what the asker knows, in short.
type digestRequest struct {
	fold      [buckets]uint64
	documents []uint64        // hashes of the documents that it has
	marks     [buckets]uint64 // XOR of the hashes of its watermarks, by bucket
	state     []byte          // fields of a state: clocks
}

func encodeDigest(d *digestRequest) []byte {
	b := appendBytes(appendHeader(nil, kindDigest), 1, appendUint64s(nil, d.fold[:]))
	b = appendBytes(b, 2, appendUint64s(nil, d.documents))
	b = appendBytes(b, 4, d.state)
	if d.marks != ([buckets]uint64{}) {
		b = appendBytes(b, 5, appendUint64s(nil, d.marks[:]))
	}
	return b
}

func decodeDigest(b []byte) (d digestRequest, err error) {
	var fold []byte
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.bytes(&fold, 8*buckets)
		case 2:
			return decodeHashes(f, &d.documents)
		case 4:
			return f.bytes(&d.state, maxRequest)
		case 5:
			return decodeFold(f, &d.marks)
		}
		return nil
	})
	if err == nil {
		err = uint64s(fold, d.fold[:])
	}
	if err != nil {
		return digestRequest{}, fmt.Errorf("digest: %w", err)
	}
	return d, nil
}

// digestReply has the leaves of those buckets that differ.
type digestReply struct {
	busy      bool // ask another
	leaves    map[byte]*[leaves]uint64
	documents []uint64
	state     []byte     // documents that the asker has not
	partial   bool       // not all of these
	marks     *markReply // nil: the same
}

// markReply tells of watermarks that differ.
type markReply struct {
	fold    [buckets]uint64
	hashes  []uint64 // in those of the first covered buckets that differ
	covered int
}

func encodeDigestReply(d *digestReply) []byte {
	b := appendFlag(appendHeader(nil, kindDigestReply), 1, d.busy)
	for i := range buckets {
		if l := d.leaves[byte(i)]; l != nil {
			b = appendElement(b, 2, appendUint64s([]byte{byte(i)}, l[:]))
		}
	}
	b = appendBytes(b, 3, appendUint64s(nil, d.documents))
	b = appendBytes(b, 5, d.state)
	b = appendFlag(b, 6, d.partial)
	if m := d.marks; m != nil {
		b = appendBytes(b, 7, appendUint64s(nil, m.fold[:]))
		b = appendBytes(b, 8, appendUint64s(nil, m.hashes))
		b = appendVarint(b, 9, uint64(m.covered))
	}
	return b
}

func decodeDigestReply(b []byte) (d digestReply, err error) {
	d.leaves = map[byte]*[leaves]uint64{}
	var marks markReply
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.flag(&d.busy)
		case 2:
			var raw []byte
			if err := f.bytes(&raw, 1+8*leaves); err != nil || len(raw) == 0 {
				return errMalformed
			}
			l := new([leaves]uint64)
			d.leaves[raw[0]] = l
			return uint64s(raw[1:], l[:])
		case 3:
			return decodeHashes(f, &d.documents)
		case 5:
			return f.bytes(&d.state, maxRequest)
		case 6:
			return f.flag(&d.partial)
		case 7:
			d.marks = &marks
			return decodeFold(f, &marks.fold)
		case 8:
			return decodeHashes(f, &marks.hashes)
		case 9:
			return f.count(&marks.covered)
		}
		return nil
	})
	if err == nil && marks.covered > buckets {
		err = errMalformed
	}
	if err != nil {
		return digestReply{}, fmt.Errorf("digest reply: %w", err)
	}
	return d, nil
}

func decodeFold(f field, to *[buckets]uint64) error {
	var b []byte
	if err := f.bytes(&b, 8*buckets); err != nil {
		return err
	}
	return uint64s(b, to[:])
}

// encodeHashes is the body of a PULL_MARKS.
func encodeHashes(kind messageKind, hashes []uint64) []byte {
	return appendBytes(appendHeader(nil, kind), 1, appendUint64s(nil, hashes))
}

func decodePullMarks(b []byte) (hashes []uint64, err error) {
	err = eachField(b, func(f field) error {
		if f.num != 1 {
			return nil
		}
		return decodeHashes(f, &hashes)
	})
	if err != nil {
		return nil, fmt.Errorf("watermarks: %w", err)
	}
	return hashes, nil
}

func decodeHashes(f field, to *[]uint64) error {
	var b []byte
	if err := f.bytes(&b, 8*maxItems); err != nil {
		return err
	}
	*to = make([]uint64, len(b)/8)
	return uint64s(b, *to)
}

// summariesRequest asks for what is below leaves.
type summariesRequest struct{ leaves []uint16 }

func encodeSummaries(r summariesRequest) []byte {
	var b []byte
	for _, l := range r.leaves {
		b = binary.BigEndian.AppendUint16(b, l)
	}
	return appendBytes(appendHeader(nil, kindSummaries), 1, b)
}

func decodeSummaries(b []byte) (r summariesRequest, err error) {
	err = eachField(b, func(f field) error {
		if f.num != 1 {
			return nil
		}
		var raw []byte
		if err := f.bytes(&raw, 2*buckets*leaves); err != nil || len(raw)%2 != 0 {
			return errMalformed
		}
		r.leaves = make([]uint16, len(raw)/2)
		for i := range r.leaves {
			r.leaves[i] = binary.BigEndian.Uint16(raw[2*i:])
		}
		return nil
	})
	if err != nil {
		return summariesRequest{}, fmt.Errorf("summaries: %w", err)
	}
	return r, nil
}

// summariesReply answers for the first covered of the leaves that were asked for: what did not fit is asked
// for again.
type summariesReply struct {
	covered   int
	summaries []session.Summary
}

const summarySize = 16 + 8

func encodeSummariesReply(r *summariesReply) []byte {
	raw := make([]byte, 0, len(r.summaries)*summarySize)
	for _, s := range r.summaries {
		raw = binary.BigEndian.AppendUint64(append(raw, s.ID[:]...), s.Hash)
	}
	b := appendVarint(appendHeader(make([]byte, 0, len(raw)+16), kindSummariesReply), 1, uint64(r.covered))
	return appendBytes(b, 2, raw)
}

func decodeSummariesReply(b []byte) (r summariesReply, err error) {
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.count(&r.covered)
		case 2:
			var raw []byte
			if err := f.bytes(&raw, maxRequest); err != nil || len(raw)%summarySize != 0 {
				return errMalformed
			}
			r.summaries = make([]session.Summary, len(raw)/summarySize)
			for i := range r.summaries {
				one := raw[i*summarySize:]
				copy(r.summaries[i].ID[:], one)
				r.summaries[i].Hash = binary.BigEndian.Uint64(one[16:])
			}
		}
		return nil
	})
	if err != nil {
		return summariesReply{}, fmt.Errorf("summaries reply: %w", err)
	}
	return r, nil
}

// encodeIDs is the body of a PULL, and of the reply to a RESOLVE.
func encodeIDs(kind messageKind, ids []session.ID) []byte {
	raw := make([]byte, 0, len(ids)*len(session.ID{}))
	for _, id := range ids {
		raw = append(raw, id[:]...)
	}
	return appendBytes(appendHeader(make([]byte, 0, len(raw)+16), kind), 1, raw)
}

func decodeIDs(b []byte) (ids []session.ID, err error) {
	const size = len(session.ID{})
	err = eachField(b, func(f field) error {
		if f.num != 1 {
			return nil
		}
		var raw []byte
		if err := f.bytes(&raw, maxIDs*size); err != nil || len(raw)%size != 0 {
			return errMalformed
		}
		ids = make([]session.ID, len(raw)/size)
		for i := range ids {
			copy(ids[i][:], raw[i*size:])
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ids: %w", err)
	}
	return ids, nil
}

// carrier is the body of what carries items in a request or reply: a PULL's and a FIND's reply, a PUSH and its
// reply (without any).
type carrier struct {
	covered int // how many of the first ids that were asked for it answers; of a PUSH's reply: items taken
	state   []byte
	busy    bool // of a PUSH's reply: nothing was taken, another tells the same
}

func encodeCarrier(kind messageKind, c carrier) []byte {
	b := appendVarint(appendHeader(make([]byte, 0, len(c.state)+16), kind), 1, uint64(c.covered))
	return appendFlag(appendBytes(b, 2, c.state), 3, c.busy)
}

func decodeCarrier(b []byte) (c carrier, err error) {
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.count(&c.covered)
		case 2:
			return f.bytes(&c.state, maxRequest)
		case 3:
			return f.flag(&c.busy)
		}
		return nil
	})
	if err != nil {
		return carrier{}, fmt.Errorf("records: %w", err)
	}
	return c, nil
}

func encodeFind(key session.Key) []byte {
	return appendBytes(appendHeader(nil, kindFind), 1, key[:])
}

func decodeFind(b []byte) (key session.Key, err error) {
	err = eachField(b, func(f field) error {
		if f.num != 1 {
			return nil
		}
		return f.exact(key[:])
	})
	if err == nil && key.IsZero() {
		err = errMalformed
	}
	if err != nil {
		return session.Key{}, fmt.Errorf("find: %w", err)
	}
	return key, nil
}

// resolveRequest asks for the sessions that match, in the order of their ids, from the first after an id; zero:
// from the first of all. A reply of maxIDs may not be all of them.
type resolveRequest struct {
	selector []byte
	after    session.ID
}

func encodeResolve(r resolveRequest) []byte {
	b := appendBytes(appendHeader(nil, kindResolve), 1, r.selector)
	if !r.after.IsZero() {
		b = appendBytes(b, 2, r.after[:])
	}
	return b
}

func decodeResolve(b []byte) (r resolveRequest, err error) {
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.bytes(&r.selector, maxOpaque)
		case 2:
			return f.exact(r.after[:])
		}
		return nil
	})
	if err != nil {
		return resolveRequest{}, fmt.Errorf("resolve: %w", err)
	}
	return r, nil
}
