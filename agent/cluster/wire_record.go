// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/curfew-proxy/curfew/agent/session"
)

// The fields of a record; a later version adds further numbers at this level only (an older one passes
// those on, but drops what it does not know inside of an identity or an end).
const (
	recordID         = 1
	recordKey        = 2
	recordIdentity   = 3
	recordMethod     = 4
	recordCreated    = 5
	recordIdle       = 6
	recordBindAddr   = 7
	recordSupersedes = 8
	recordBorn       = 9
	recordDeadline   = 10
	recordActive     = 11
	recordRevoked    = 12
	recordGeneration = 13
	recordSID        = 14
	recordCredential = 15
	recordValidated  = 16
)

// appendRecord encodes all of a record but its Origin, which stands in the message's dictionary.
// Returns an error if a limit of the wire is exceeded; nobody would read it then.
func appendRecord(b []byte, r *session.Record) ([]byte, error) {
	start := len(b)
	b = appendBytes(b, recordID, r.ID[:])
	if !r.Key.IsZero() {
		b = appendBytes(b, recordKey, r.Key[:])
	}
	b = appendBytes(b, recordIdentity, appendIdentity(nil, &r.Identity))
	b = appendText(b, recordMethod, r.Method)
	b = appendTime(b, recordCreated, r.Created)
	b = appendVarint(b, recordIdle, uint64(r.IdleTimeout))
	for _, a := range r.BindAddrs {
		raw, _ := a.MarshalBinary() // never fails
		b = appendElement(b, recordBindAddr, raw)
	}
	if !r.Supersedes.IsZero() {
		b = appendBytes(b, recordSupersedes, r.Supersedes[:])
	}
	b = appendSigned(b, recordBorn, int64(r.Born))
	b = appendSigned(b, recordDeadline, int64(r.Deadline))
	b = appendSigned(b, recordActive, int64(r.Active))
	if r.Revoked != nil {
		b = appendElement(b, recordRevoked, appendEnd(nil, r.Revoked)) // an end of which nothing is told is one too
	}
	b = appendVarint(b, recordGeneration, uint64(r.Generation))
	b = appendText(b, recordSID, r.SID)
	if !r.Credential.IsZero() {
		b = appendBytes(b, recordCredential, r.Credential[:])
	}
	b = appendSigned(b, recordValidated, int64(r.Validated))
	b = append(b, r.Extra...)
	if _, err := decodeRecord(b[start:]); err != nil {
		return b[:start], fmt.Errorf("encode session %s: %w", r.ID.Short(), err)
	}
	return b, nil
}

func decodeRecord(b []byte) (r session.Record, err error) {
	if len(b) > maxRecord {
		return r, fmt.Errorf("record of %d bytes: %w", len(b), errTooLong)
	}
	err = eachField(b, func(f field) error { return decodeRecordField(&r, f) })
	if err == nil && (r.ID.IsZero() || r.IdleTimeout < 0) {
		err = errMalformed
	}
	if err != nil {
		return session.Record{}, fmt.Errorf("record: %w", err)
	}
	r.Extra = bytes.Clone(r.Extra)
	return r, nil
}

func decodeRecordField(r *session.Record, f field) error {
	switch f.num {
	case recordID:
		return f.exact(r.ID[:])
	case recordKey:
		return f.exact(r.Key[:])
	case recordIdentity:
		return decodeIdentity(f, &r.Identity)
	case recordMethod:
		return f.text(&r.Method, maxWord)
	case recordCreated:
		return decodeTime(f, &r.Created)
	case recordIdle:
		r.IdleTimeout = time.Duration(f.n)
		return f.varint(new(uint64))
	case recordBindAddr:
		return decodeAddr(f, &r.BindAddrs)
	case recordSupersedes:
		return f.exact(r.Supersedes[:])
	case recordBorn:
		return f.signed((*int64)(&r.Born))
	case recordDeadline:
		return f.signed((*int64)(&r.Deadline))
	case recordActive:
		return f.signed((*int64)(&r.Active))
	case recordRevoked:
		r.Revoked = &session.End{}
		return decodeEnd(f, r.Revoked)
	case recordGeneration:
		r.Generation = uint32(min(f.n, math.MaxUint32))
		return f.varint(new(uint64))
	case recordSID:
		return f.text(&r.SID, maxName)
	case recordCredential:
		return f.exact(r.Credential[:])
	case recordValidated:
		return f.signed((*int64)(&r.Validated))
	}
	r.Extra = append(r.Extra, f.raw...)
	return nil
}

func decodeAddr(f field, to *[]netip.Addr) error {
	var raw []byte
	if err := f.bytes(&raw, 16+maxWord); err != nil {
		return err
	}
	var a netip.Addr
	if err := a.UnmarshalBinary(raw); err != nil || !a.IsValid() {
		return fmt.Errorf("address: %w", errMalformed)
	}
	if len(*to) == maxAddrs {
		return fmt.Errorf("addresses: %w", errTooLong)
	}
	*to = append(*to, a)
	return nil
}

func appendIdentity(b []byte, i *session.Identity) []byte {
	b = appendText(b, 1, i.Issuer)
	b = appendText(b, 2, i.Subject)
	b = appendText(b, 3, i.Name)
	b = appendText(b, 4, i.Email)
	b = appendTexts(b, 5, i.Groups)
	b = appendText(b, 6, i.ACR)
	b = appendTexts(b, 7, i.AMR)
	return appendTime(b, 8, i.AuthTime)
}

func decodeIdentity(f field, i *session.Identity) error {
	var b []byte
	if err := f.bytes(&b, maxRecord); err != nil {
		return err
	}
	return eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.text(&i.Issuer, maxName)
		case 2:
			return f.text(&i.Subject, maxName)
		case 3:
			return f.text(&i.Name, maxName)
		case 4:
			return f.text(&i.Email, maxName)
		case 5:
			return decodeTexts(f, &i.Groups)
		case 6:
			return f.text(&i.ACR, maxName)
		case 7:
			return decodeTexts(f, &i.AMR)
		case 8:
			return decodeTime(f, &i.AuthTime)
		}
		return nil
	})
}

// appendEnd shortens words that are too long: an end is never left untold.
func appendEnd(b []byte, e *session.End) []byte {
	b = appendText(b, 1, shorten(string(e.Reason), maxWord))
	b = appendText(b, 2, shorten(e.By, maxName))
	b = appendText(b, 3, shorten(e.Message, maxText))
	return appendTime(b, 4, e.At)
}

func decodeEnd(f field, e *session.End) error {
	var b []byte
	if err := f.bytes(&b, maxRecord); err != nil {
		return err
	}
	return eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.text((*string)(&e.Reason), maxWord)
		case 2:
			return f.text(&e.By, maxName)
		case 3:
			return f.text(&e.Message, maxText)
		case 4:
			return decodeTime(f, &e.At)
		}
		return nil
	})
}

func shorten(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "")
}

// appendTexts keeps empty elements, so that what is read is what was written.
func appendTexts(b []byte, num protowire.Number, list []string) []byte {
	for _, s := range list {
		b = appendElement(b, num, []byte(s))
	}
	return b
}

func decodeTexts(f field, to *[]string) error {
	var s string
	if err := f.text(&s, maxName); err != nil {
		return err
	}
	if len(*to) == maxGroups {
		return fmt.Errorf("field %d: %w", f.num, errTooLong)
	}
	*to = append(*to, s)
	return nil
}

func appendTime(b []byte, num protowire.Number, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return appendSigned(b, num, t.UnixNano())
}

func decodeTime(f field, to *time.Time) error {
	var ns int64
	if err := f.signed(&ns); err != nil {
		return err
	}
	if *to = (time.Time{}); ns != 0 {
		*to = time.Unix(0, ns)
	}
	return nil
}
