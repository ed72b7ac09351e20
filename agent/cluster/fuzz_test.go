// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"reflect"
	"testing"

	"github.com/curfew-proxy/curfew/agent/session"
)

// FuzzMessage reads a whole message as Receive, Gossiped, Serve and their callers do.
func FuzzMessage(f *testing.F) {
	f.Add(sampleState(f))
	f.Add(encodeAck(ack{epoch: 7, numbers: []uint64{1, 2, 300}}))
	f.Add(encodeClock(clockMessage{reply: true, t1: 1, t2: 2, t3: 3, boot: 4, epoch: 7, wall: 9, sessions: 2}))
	f.Add(encodeDigest(&digestRequest{documents: []uint64{5}, state: sampleState(f)[2:]}))
	f.Add(encodeDigestReply(&digestReply{leaves: map[byte]*[leaves]uint64{9: {1: 4}}, documents: []uint64{1}}))
	f.Add(encodeDigestReply(&digestReply{marks: &markReply{hashes: []uint64{5}, covered: 256}}))
	f.Add(encodeHashes(kindPullMarks, []uint64{1, 2}))
	f.Add(encodeSummaries(summariesRequest{[]uint16{1, 65535}}))
	f.Add(encodeSummariesReply(&summariesReply{covered: 2, summaries: []session.Summary{{ID: session.ID{4}, Hash: 9}}}))
	f.Add(encodeIDs(kindPull, []session.ID{{1}}))
	f.Add(encodeCarrier(kindPullReply, carrier{covered: 1, state: sampleState(f)[2:]}))
	f.Add(encodeFind(session.Key{7}))
	f.Add(encodeResolve(resolveRequest{selector: []byte("q"), after: session.ID{7}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, body, err := openMessage(b, maxRequest)
		if err != nil {
			return
		}
		switch kind {
		case kindState:
			fuzzState(t, body)
		case kindAck:
			_, _ = decodeAck(body)
		case kindClock:
			_, _ = decodeClockMessage(body)
		case kindDigest:
			d, _ := decodeDigest(body)
			fuzzState(t, d.state)
		case kindDigestReply:
			d, _ := decodeDigestReply(body)
			fuzzState(t, d.state)
			if d.marks != nil && d.marks.covered > buckets {
				t.Fatalf("%d of %d buckets", d.marks.covered, buckets)
			}
		case kindPullMarks:
			_, _ = decodePullMarks(body)
		case kindSummaries:
			_, _ = decodeSummaries(body)
		case kindSummariesReply:
			_, _ = decodeSummariesReply(body)
		case kindPull, kindResolveReply:
			_, _ = decodeIDs(body)
		case kindPullReply, kindPullMarksReply, kindPush, kindPushReply, kindFindReply:
			c, _ := decodeCarrier(body)
			fuzzState(t, c.state)
		case kindFind:
			_, _ = decodeFind(body)
		case kindResolve:
			_, _ = decodeResolve(body)
		}
	})
}

// FuzzReceive hands whole packets and gossip to an engine, which must survive them all.
func FuzzReceive(f *testing.F) {
	f.Add("b", sampleState(f))
	f.Add("b", freshState(f))
	f.Add("b", encodeAck(ack{epoch: 7, numbers: []uint64{1}}))
	f.Add("b", encodeClock(clockMessage{t1: 1, boot: 4, epoch: 7}))
	f.Add("a", []byte{wireVersion, 99})
	clock := &handClock{boot: 1}
	base := NewTimebase(originA, clock, nil)
	table, err := session.NewTable(session.TableConfig{Clock: clock, Timebase: base})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, from string, b []byte) {
		e, err := New(Config{Clock: clock, Timebase: base, Table: table, Network: nowhere{}, Membership: nowhere{}})
		if err != nil {
			t.Fatal(err)
		}
		e.Receive(from, bytes.Clone(b))
		e.Gossiped(bytes.Clone(b))
		for _, l := range []*lane{&e.inbox.urgent[0], &e.inbox.normal[0], &e.inbox.normal[1]} {
			e.apply(t.Context(), l.list)
		}
	})
}

// nowhere is a network without anybody.
type nowhere struct{}

func (nowhere) Send(string, []byte) error { return nil }
func (nowhere) Request(context.Context, string, []byte) ([]byte, error) {
	return nil, errNobody
}
func (nowhere) Broadcast(string, []byte) error { return nil }
func (nowhere) Members() []Member              { return nil }

// fuzzState decodes each item as each kind, since a peer may call anything anything.
func fuzzState(t *testing.T, b []byte) {
	s, err := decodeState(b)
	if err != nil {
		return
	}
	for _, it := range s.items {
		for kind := itemCreate; kind <= itemKill; kind++ {
			it.kind = kind
			_, _ = it.record()
			_, _ = it.killOrder()
			_, _ = it.watermark()
			_, _ = it.report()
			_, _ = it.document()
		}
	}
}

// FuzzRecord holds that what was read once is written so that it is read again as the same.
func FuzzRecord(f *testing.F) {
	r := fullRecord()
	for _, r := range []session.Record{r, tombstone(&r), activity(&r)} {
		b, err := appendRecord(nil, &r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, appendText(nil, 99, "later")...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		again, err := appendRecord(nil, &r)
		if err != nil {
			return // as long as is allowed, and longer in our spelling
		}
		if got, err := decodeRecord(again); err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("read  %+v\nagain %+v (%v)", r, got, err)
		}
	})
}
