// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"math"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// itemKind says what an item tells. Kinds that are not known are acknowledged, counted and otherwise
// ignored.
type itemKind byte

const (
	itemCreate    itemKind = 1 // a whole record
	itemRevoke    itemKind = 2 // a tombstone
	itemActivity  itemKind = 3 // of a record, what may move while it lives
	itemWatermark itemKind = 4
	itemReport    itemKind = 5 // what became of the connections of revoked sessions, to who asked
	itemOpaque    itemKind = 6 // a document of another package
	itemKill      itemKind = 7 // a tombstone, and where to report to
)

// urgent reports whether the item ends sessions: it goes and is applied before everything else.
func (k itemKind) urgent() bool { return k == itemRevoke || k == itemKill || k == itemWatermark }

// item is one thing that is told. The instants in body are readings of origin's clock; the body itself does
// not name it, so that it is the same in every message and encoded once.
type item struct {
	number uint64 // in what its sender has to tell this receiver; zero: not to be acknowledged
	kind   itemKind
	origin session.Origin // zero: body has no instants
	body   []byte
}

// tombstone is what of a record tells its end.
func tombstone(r *session.Record) session.Record {
	return session.Record{ID: r.ID, Origin: r.Origin, Deadline: r.Deadline, Revoked: r.Revoked, Supersedes: r.Supersedes}
}

// activity is what of a record may move while the session lives.
func activity(r *session.Record) session.Record {
	return session.Record{ID: r.ID, Origin: r.Origin, Deadline: r.Deadline, Active: r.Active}
}

func encodeCreate(r *session.Record) (item, error) {
	body, err := appendRecord(nil, r)
	return item{kind: itemCreate, origin: r.Origin, body: body}, err
}

func encodeRevoke(r *session.Record) (item, error) {
	t := tombstone(r)
	body, err := appendRecord(nil, &t)
	return item{kind: itemRevoke, origin: r.Origin, body: body}, err
}

func encodeActivity(r *session.Record) (item, error) {
	a := activity(r)
	body, err := appendRecord(nil, &a)
	return item{kind: itemActivity, origin: r.Origin, body: body}, err
}

// record decodes the body of a CREATE, REVOKE or ACTIVITY.
func (it *item) record() (session.Record, error) {
	r, err := decodeRecord(it.body)
	r.Origin = it.origin
	switch {
	case err != nil:
	case it.kind == itemCreate && r.Key.IsZero() && r.Revoked == nil,
		it.kind == itemRevoke && r.Revoked == nil,
		it.kind == itemActivity && !(r.Revoked == nil && r.Key.IsZero()):
		err = fmt.Errorf("item of kind %d: %w", it.kind, errMalformed)
	}
	return r, err
}

// killOrder is the body of a KILL.
type killOrder struct {
	kill   uint64 // names the kill at its sender
	report bool   // it wants to know what became of connections
	record session.Record
}

func encodeKill(kill uint64, r *session.Record, report bool) (item, error) {
	t := tombstone(r)
	record, err := appendRecord(nil, &t)
	body := appendBytes(appendFixed(nil, 1, kill), 2, record)
	return item{kind: itemKill, origin: r.Origin, body: appendFlag(body, 3, report)}, err
}

func (it *item) killOrder() (k killOrder, err error) {
	var record []byte
	err = eachField(it.body, func(f field) error {
		switch f.num {
		case 1:
			return f.fixed(&k.kill)
		case 2:
			return f.bytes(&record, maxRecord)
		case 3:
			return f.flag(&k.report)
		}
		return nil
	})
	if err == nil {
		k.record, err = decodeRecord(record)
		k.record.Origin = it.origin
	}
	if err == nil && (k.record.Revoked == nil || k.kill == 0) {
		err = fmt.Errorf("kill: %w", errMalformed)
	}
	return k, err
}

func encodeWatermark(w *session.Watermark) (item, error) {
	body := appendText(nil, 1, w.Issuer)
	body = appendText(body, 2, w.Subject)
	body = appendSigned(body, 3, int64(w.Before))
	body = appendBytes(body, 4, appendEnd(nil, &w.End))
	body = appendText(body, 5, w.SID)
	body = appendVarint(body, 6, uint64(w.Keep))
	body = appendVarint(body, 7, uint64(w.Fresh)) // a version that does not know it takes the watermark for one without
	it := item{kind: itemWatermark, origin: w.Origin, body: body}
	_, err := it.watermark()
	return it, err
}

func (it *item) watermark() (session.Watermark, error) {
	w := session.Watermark{Origin: it.origin}
	err := eachField(it.body, func(f field) error {
		switch f.num {
		case 1:
			return f.text(&w.Issuer, maxName)
		case 2:
			return f.text(&w.Subject, maxName)
		case 3:
			return f.signed((*int64)(&w.Before))
		case 4:
			return decodeEnd(f, &w.End)
		case 5:
			return f.text(&w.SID, maxName)
		case 6:
			w.Keep = time.Duration(min(f.n, uint64(session.MaxLifetime)))
			return f.varint(new(uint64))
		case 7:
			w.Fresh = int64(min(f.n, math.MaxInt64))
			return f.varint(new(uint64))
		}
		return nil
	})
	if err != nil {
		return session.Watermark{}, fmt.Errorf("watermark: %w", err)
	}
	return w, nil
}

// report is the body of a REPORT. A kill of many sessions is answered in several, each once.
type report struct {
	kill, part            uint64
	covered               int // sessions that it is about
	destroyed, gone, left int // connections
	unverified            bool
	took                  time.Duration // from the order's arrival
	err                   string
}

func encodeReport(r *report) item {
	body := appendFixed(nil, 1, r.kill)
	body = appendVarint(body, 2, r.part)
	body = appendVarint(body, 3, uint64(r.covered))
	body = appendVarint(body, 4, uint64(r.destroyed))
	body = appendVarint(body, 5, uint64(r.gone))
	body = appendVarint(body, 6, uint64(r.left))
	body = appendFlag(body, 7, r.unverified)
	body = appendVarint(body, 8, uint64(max(r.took, 0)))
	return item{kind: itemReport, body: appendText(body, 9, shorten(r.err, maxName))}
}

func (it *item) report() (r report, err error) {
	err = eachField(it.body, func(f field) error {
		switch f.num {
		case 1:
			return f.fixed(&r.kill)
		case 2:
			return f.varint(&r.part)
		case 3:
			return f.count(&r.covered)
		case 4:
			return f.count(&r.destroyed)
		case 5:
			return f.count(&r.gone)
		case 6:
			return f.count(&r.left)
		case 7:
			return f.flag(&r.unverified)
		case 8:
			r.took = time.Duration(f.n)
			return f.varint(new(uint64))
		case 9:
			return f.text(&r.err, maxName)
		}
		return nil
	})
	return r, err
}

// Document is bytes that the cluster carries for another package, to everyone.
type Document struct {
	Kind byte
	Data []byte // up to 60 KiB
}

func encodeDocument(d Document) (item, error) {
	if len(d.Data) > maxOpaque {
		return item{}, fmt.Errorf("document of %d bytes: %w", len(d.Data), errTooLong)
	}
	return item{kind: itemOpaque, body: appendBytes(appendVarint(nil, 1, uint64(d.Kind)), 2, d.Data)}, nil
}

func (it *item) document() (d Document, err error) {
	err = eachField(it.body, func(f field) error {
		switch f.num {
		case 1:
			if f.n > 255 {
				return errMalformed
			}
			d.Kind = byte(f.n)
			return f.varint(new(uint64))
		case 2:
			return f.bytes(&d.Data, maxOpaque)
		}
		return nil
	})
	return d, err
}
