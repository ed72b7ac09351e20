// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// A message is a version byte, a kind byte and fields in the protobuf wire format. A reader ignores the
// fields, items and kinds that it does not know, so that nodes of different age get along; the version
// changes only when that is not enough, and then an old node ignores the whole message.
const wireVersion = 1

// messageKind says what a message is. Numbers are never used again for something else.
type messageKind byte

const (
	kindState messageKind = 1 // items, to be acknowledged
	kindAck   messageKind = 2
	kindClock messageKind = 3

	// Requests, and their replies.
	kindDigest         messageKind = 16
	kindDigestReply    messageKind = 17
	kindSummaries      messageKind = 18
	kindSummariesReply messageKind = 19
	kindPull           messageKind = 20
	kindPullReply      messageKind = 21
	kindPush           messageKind = 22
	kindPushReply      messageKind = 23
	kindFind           messageKind = 24
	kindFindReply      messageKind = 25
	kindResolve        messageKind = 26
	kindResolveReply   messageKind = 27
	kindAsk            messageKind = 28
	kindAskReply       messageKind = 29
	kindPullMarks      messageKind = 30
	kindPullMarksReply messageKind = 31
)

// Limits of what is read from others. What is written keeps to them.
const (
	maxPacket  = 1100     // what is put into one packet, unless a single item is longer
	maxGossip  = 1000     // bytes of a broadcast: an item that does not fit is not gossiped
	maxMessage = 63 << 10 // bytes of a packet or broadcast that are read at all
	maxChunk   = 1 << 20  // what is put into one request or reply, unless a single item is longer
	maxRequest = maxChunk + maxMessage

	maxItems   = 16_384 // in a message
	maxOrigins = 4_096  // in a dictionary
	maxIDs     = 65_536 // in a request or reply

	maxNode   = 64
	maxRecord = 60 << 10
	maxOpaque = 60 << 10
	maxName   = 2_048  // issuer, subject, name, e-mail, group, by
	maxWord   = 64     // method, reason
	maxText   = 16_384 // an operator's words
	maxGroups = 2_048
	maxAddrs  = 256
)

var (
	errMalformed = errors.New("malformed")
	errTooLong   = errors.New("too long")
	errVersion   = errors.New("unknown version")
)

func appendHeader(b []byte, kind messageKind) []byte { return append(b, wireVersion, byte(kind)) }

// openMessage takes the header off a message.
func openMessage(b []byte, limit int) (messageKind, []byte, error) {
	switch {
	case len(b) > limit:
		return 0, nil, fmt.Errorf("message of %d bytes: %w", len(b), errTooLong)
	case len(b) < 2:
		return 0, nil, fmt.Errorf("message of %d bytes: %w", len(b), errMalformed)
	case b[0] != wireVersion:
		return 0, nil, fmt.Errorf("message of version %d: %w", b[0], errVersion)
	}
	return messageKind(b[1]), b[2:], nil
}

// field is one field of a message. b and raw share memory with the message.
type field struct {
	num protowire.Number
	typ protowire.Type
	n   uint64 // of varint and fixed64
	b   []byte // of bytes
	raw []byte // with its tag
}

// eachField calls f for each field of b, and stops at the first error.
func eachField(b []byte, f func(field) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMalformed
		}
		v := field{num: num, typ: typ}
		m := -1
		switch typ {
		case protowire.VarintType:
			v.n, m = protowire.ConsumeVarint(b[n:])
		case protowire.Fixed64Type:
			v.n, m = protowire.ConsumeFixed64(b[n:])
		case protowire.Fixed32Type:
			_, m = protowire.ConsumeFixed32(b[n:])
		case protowire.BytesType:
			v.b, m = protowire.ConsumeBytes(b[n:])
		}
		if m < 0 { // also groups, which nobody ever wrote
			return errMalformed
		}
		v.raw, b = b[:n+m], b[n+m:]
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

// is reports an error unless the field has the type that is read from it.
func (f field) is(typ protowire.Type) error {
	if f.typ != typ {
		return fmt.Errorf("field %d of type %d: %w", f.num, f.typ, errMalformed)
	}
	return nil
}

func (f field) varint(to *uint64) error {
	*to = f.n
	return f.is(protowire.VarintType)
}

func (f field) fixed(to *uint64) error {
	*to = f.n
	return f.is(protowire.Fixed64Type)
}

func (f field) signed(to *int64) error {
	*to = protowire.DecodeZigZag(f.n)
	return f.is(protowire.VarintType)
}

func (f field) flag(to *bool) error {
	*to = f.n != 0
	return f.is(protowire.VarintType)
}

// count reads a number of things that fits an int anywhere.
func (f field) count(to *int) error {
	if f.n > 1<<31-1 {
		return fmt.Errorf("field %d: %w", f.num, errMalformed)
	}
	*to = int(f.n)
	return f.is(protowire.VarintType)
}

// bytes does not copy.
func (f field) bytes(to *[]byte, limit int) error {
	if len(f.b) > limit {
		return fmt.Errorf("field %d of %d bytes: %w", f.num, len(f.b), errTooLong)
	}
	*to = f.b
	return f.is(protowire.BytesType)
}

func (f field) text(to *string, limit int) error {
	if len(f.b) > limit {
		return fmt.Errorf("field %d of %d bytes: %w", f.num, len(f.b), errTooLong)
	}
	*to = string(f.b)
	return f.is(protowire.BytesType)
}

// exact fills to, whose length the field must have.
func (f field) exact(to []byte) error {
	if len(f.b) != len(to) {
		return fmt.Errorf("field %d of %d bytes: %w", f.num, len(f.b), errMalformed)
	}
	copy(to, f.b)
	return f.is(protowire.BytesType)
}

// The append functions leave out what is zero.

func appendVarint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendSigned(b []byte, num protowire.Number, v int64) []byte {
	return appendVarint(b, num, protowire.EncodeZigZag(v))
}

func appendFixed(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendFixed64(protowire.AppendTag(b, num, protowire.Fixed64Type), v)
}

func appendFlag(b []byte, num protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendVarint(b, num, 1)
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// appendElement appends one of several, which may be empty.
func appendElement(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

func appendText(b []byte, num protowire.Number, v string) []byte {
	if v == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// appendUint64s and uint64s are for digests, where every one of many numbers counts.
func appendUint64s(b []byte, v []uint64) []byte {
	for _, n := range v {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func uint64s(b []byte, to []uint64) error {
	if len(b) != 8*len(to) {
		return fmt.Errorf("%d bytes for %d numbers: %w", len(b), len(to), errMalformed)
	}
	for i := range to {
		to[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return nil
}
