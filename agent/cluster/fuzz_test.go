// SPDX-License-Identifier: Apache-2.0

package cluster

import (
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
	f.Add(encodeSummaries(summariesRequest{[]uint16{1, 65535}}))
	f.Add(encodeSummariesReply(&summariesReply{covered: 2, summaries: []session.Summary{{ID: session.ID{4}, Hash: 9}}}))
	f.Add(encodeIDs(kindPull, []session.ID{{1}}))
	f.Add(encodeCarrier(kindPullReply, carrier{covered: 1, state: sampleState(f)[2:]}))
	f.Add(encodeFind(session.Key{7}))
	f.Add(encodeResolve([]byte("q")))
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
		case kindSummaries:
			_, _ = decodeSummaries(body)
		case kindSummariesReply:
			_, _ = decodeSummariesReply(body)
		case kindPull, kindResolveReply:
			_, _ = decodeIDs(body)
		case kindPullReply, kindPush, kindPushReply, kindFindReply:
			c, _ := decodeCarrier(body)
			fuzzState(t, c.state)
		case kindFind:
			_, _ = decodeFind(body)
		case kindResolve:
			_, _ = decodeResolve(body)
		}
	})
}

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
