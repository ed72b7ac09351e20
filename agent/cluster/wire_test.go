// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/curfew-proxy/curfew/agent/session"
)

var (
	originA = session.Origin{Node: "a", Boot: 0xa1a2a3a4a5a6a7a8}
	originB = session.Origin{Node: "b", Boot: 0xb1b2b3b4b5b6b7b8}
)

func fullRecord() session.Record {
	return session.Record{
		ID: session.ID{1, 2, 3}, Key: session.Key{4, 5, 6},
		Identity: session.Identity{Issuer: "https://idp", Subject: "u1", Name: "Ann", Email: "ann@example.org",
			Groups: []string{"dba", "", "ops"}, ACR: "2", AMR: []string{"otp"}, AuthTime: time.Unix(1_700_000_000, 5)},
		Method: "browser", Created: time.Unix(1_700_000_001, 7), IdleTimeout: 15 * time.Minute,
		BindAddrs:  []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1%eth0")},
		Supersedes: session.ID{9}, Generation: 3, Origin: originA, Born: 1000, Deadline: 1_000_000, Active: 2000,
		Revoked: &session.End{Reason: session.ReasonKilled, By: "root@control", Message: "stolen laptop", At: time.Unix(1_700_000_002, 0)},
	}
}

func TestRecordKeepsEverything(t *testing.T) {
	want := fullRecord()
	it, err := encodeCreate(&want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := it.record()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// A field that a later version will add must survive an older node in between.
func TestRecordKeepsUnknownFields(t *testing.T) {
	r := fullRecord()
	it, err := encodeCreate(&r)
	if err != nil {
		t.Fatal(err)
	}
	extra := appendText(appendVarint(nil, 77, 5), 78, "later")
	it.body = append(append([]byte{}, extra...), it.body...) // wherever it stands
	got, err := it.record()
	if err != nil || string(got.Extra) != string(extra) {
		t.Fatalf("Extra = %x, %v; want %x", got.Extra, err, extra)
	}
	again, err := encodeCreate(&got)
	if err != nil {
		t.Fatal(err)
	}
	if third, err := again.record(); err != nil || !reflect.DeepEqual(third, got) {
		t.Errorf("after another hop: %+v, %v; want %+v", third, err, got)
	}
}

func TestRecordLimits(t *testing.T) {
	for name, change := range map[string]func(*session.Record){
		"long subject":  func(r *session.Record) { r.Identity.Subject = strings.Repeat("x", maxName+1) },
		"many groups":   func(r *session.Record) { r.Identity.Groups = make([]string, maxGroups+1) },
		"long method":   func(r *session.Record) { r.Method = strings.Repeat("x", maxWord+1) },
		"many bindings": func(r *session.Record) { r.BindAddrs = slices.Repeat(r.BindAddrs, maxAddrs/2+1) },
		"no id":         func(r *session.Record) { r.ID = session.ID{} },
		"bad extra":     func(r *session.Record) { r.Extra = []byte{0xff} },
		"in sum":        func(r *session.Record) { r.Extra = appendText(nil, 99, strings.Repeat("x", maxRecord)) },
	} {
		r := fullRecord()
		change(&r)
		if _, err := encodeCreate(&r); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

// The end of a session is told in any case, if need be in fewer words.
func TestLongEndIsShortened(t *testing.T) {
	r := fullRecord()
	r.Revoked.Message = strings.Repeat("é", maxText)
	it, err := encodeRevoke(&r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := it.record()
	if err != nil || got.Revoked == nil || !strings.HasPrefix(r.Revoked.Message, got.Revoked.Message) || len(got.Revoked.Message) < maxText-4 {
		t.Errorf("got %v, %v", got.Revoked, err)
	}
}

func TestItemsOfTheWrongShape(t *testing.T) {
	whole, live := fullRecord(), fullRecord()
	live.Revoked = nil
	create, _ := encodeCreate(&live)
	revoke, _ := encodeRevoke(&whole)
	active, _ := encodeActivity(&live)
	for name, it := range map[string]item{
		"a create without a key":      {kind: itemCreate, body: active.body},
		"a revocation that is none":   {kind: itemRevoke, body: create.body},
		"activity that is a creation": {kind: itemActivity, body: create.body},
		"activity that is an end":     {kind: itemActivity, body: revoke.body},
	} {
		if r, err := it.record(); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func sampleState(t testing.TB) []byte {
	t.Helper()
	r := fullRecord()
	w := newStateWriter(originB, 7, func(o session.Origin) remoteClock {
		return remoteClock{origin: o, known: o == originA, offset: -5 * time.Second, bound: time.Millisecond}
	})
	create, _ := encodeCreate(&r)
	revoke, _ := encodeRevoke(&r)
	active, _ := encodeActivity(&session.Record{ID: session.ID{8}, Origin: originB, Active: 5, Deadline: 9})
	kill, _ := encodeKill(0xabcdef, &r, true)
	mark, _ := encodeWatermark(&session.Watermark{Subject: "u1", Origin: session.Origin{Node: "c", Boot: 3}, Before: 99,
		End: session.End{Reason: session.ReasonProvider, By: "https://idp", At: time.Unix(1_700_000_003, 0)}})
	rep := encodeReport(&report{kill: 0xabcdef, part: 2, covered: 3, destroyed: 4, gone: 5, left: 6, unverified: true, took: time.Millisecond, err: "no"})
	doc, _ := encodeDocument(Document{Kind: 3, Data: []byte("deny")})
	for i, it := range []item{create, revoke, active, kill, mark, rep, doc} {
		it.number = uint64(i + 1)
		w.add(&it)
	}
	return w.message()
}

func TestStateKeepsEverything(t *testing.T) {
	kind, body, err := openMessage(sampleState(t), maxMessage)
	if err != nil || kind != kindState {
		t.Fatal(kind, err)
	}
	s, err := decodeState(body)
	if err != nil {
		t.Fatal(err)
	}
	if s.sender != originB || s.epoch != 7 || len(s.items) != 7 || len(s.clocks) != 2 {
		t.Fatalf("%+v", s)
	}
	if c := s.clocks[0]; c != (remoteClock{originA, true, -5 * time.Second, time.Millisecond}) {
		t.Errorf("clock of a: %+v", c)
	}
	if s.clocks[1].known {
		t.Errorf("a clock that the sender does not know came out known: %+v", s.clocks[1])
	}
	if s.items[2].origin != originB || s.items[0].origin != originA || s.items[4].origin.Node != "c" {
		t.Errorf("origins: %+v", s.items)
	}
	k, err := s.items[3].killOrder()
	if err != nil || k.kill != 0xabcdef || !k.report || k.record.ID != fullRecord().ID || k.record.Origin != originA {
		t.Errorf("kill: %+v, %v", k, err)
	}
	r, err := s.items[5].report()
	if want := (report{0xabcdef, 2, 3, 4, 5, 6, true, time.Millisecond, "no"}); err != nil || r != want {
		t.Errorf("report: %+v, %v", r, err)
	}
	if m, err := s.items[4].watermark(); err != nil || m.Subject != "u1" || m.Before != 99 || m.End.Reason != session.ReasonProvider {
		t.Errorf("watermark: %+v, %v", m, err)
	}
	if d, err := s.items[6].document(); err != nil || d.Kind != 3 || string(d.Data) != "deny" {
		t.Errorf("document: %+v, %v", d, err)
	}
}

// The encoding is what nodes of different versions share: a change of these bytes breaks running clusters.
func TestGoldenBytes(t *testing.T) {
	golden := map[string]string{
		"state":  goldenState,
		"ack":    "010209070000000000000012040102ac02",
		"clock":  "0103080110021804200629a8a7a6a5a4a3a2a13107000000000000003812400248" + "01",
		"pull":   "01140a1001020000000000000000000000000000",
		"find":   "01180a20" + "0405060000000000000000000000000000000000000000000000000000000000",
		"covers": "0115080212020800",
	}
	for name, b := range map[string][]byte{
		"state":  sampleState(t),
		"ack":    encodeAck(ack{epoch: 7, numbers: []uint64{1, 2, 300}}),
		"clock":  encodeClock(clockMessage{reply: true, t1: 1, t2: 2, t3: 3, boot: originA.Boot, epoch: 7, wall: 9, sessions: 2, ready: true}),
		"pull":   encodeIDs(kindPull, []session.ID{{1, 2}}),
		"find":   encodeFind(session.Key{4, 5, 6}),
		"covers": encodeCarrier(kindPullReply, carrier{covered: 2, state: []byte{8, 0}}),
	} {
		if got := hex.EncodeToString(b); got != golden[name] {
			t.Errorf("%s:\n got %s\nwant %s", name, got, golden[name])
		}
	}
}

func TestUnknownIsIgnored(t *testing.T) {
	w := newStateWriter(originB, 7, nil)
	w.add(&item{number: 1, kind: 200, body: []byte("?")})
	b := append(w.message(), appendText(nil, 60, "later")...)
	_, body, _ := openMessage(b, maxMessage)
	s, err := decodeState(body)
	if err != nil || len(s.items) != 1 || s.items[0].kind != 200 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, _, err := openMessage([]byte{wireVersion + 1, 1}, maxMessage); !errors.Is(err, errVersion) {
		t.Errorf("another version: %v", err)
	}
}

func TestStateLimits(t *testing.T) {
	var items, clocks []byte
	for range maxItems + 1 {
		items = appendElement(items, 5, nil)
	}
	for range maxOrigins + 1 {
		clocks = appendElement(clocks, 4, appendClock(nil, remoteClock{origin: originA}))
	}
	for name, b := range map[string][]byte{
		"items":   items,
		"clocks":  clocks,
		"origin":  appendElement(nil, 5, appendVarint(nil, 3, 2)),
		"node":    appendText(nil, 2, strings.Repeat("n", maxNode+1)),
		"group":   protowire.AppendTag(nil, 9, protowire.StartGroupType),
		"cut off": {0x2a, 0x05, 1},
	} {
		if _, err := decodeState(b); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
}

// Packets stay within what one datagram carries, however items and origins fall.
func TestWriterKeepsToThePacket(t *testing.T) {
	w := newStateWriter(originB, 1<<63, func(o session.Origin) remoteClock {
		return remoteClock{origin: o, known: true, offset: -1 << 60, bound: time.Minute}
	})
	for i := range 100 {
		r := session.Record{ID: session.ID{byte(i + 1)}, Origin: session.Origin{Node: strings.Repeat("n", i%64+1), Boot: 1<<63 + uint64(i)}, Active: 1 << 60, Deadline: 1 << 60}
		it, err := encodeActivity(&r)
		if err != nil {
			t.Fatal(err)
		}
		it.number = 1 << 62
		if !w.fits(&it, maxPacket) {
			break
		}
		w.add(&it)
	}
	if n := len(w.message()); n > maxPacket || n < maxPacket-200 {
		t.Errorf("a full packet has %d bytes", n)
	}
}

func TestSyncMessages(t *testing.T) {
	d := digestRequest{documents: []uint64{5, 6}, state: []byte{8, 0}}
	d.fold[3], d.marks[4] = 77, 78
	if got, err := decodeDigest(encodeDigest(&d)[2:]); err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("digest: %+v, %v", got, err)
	}
	r := digestReply{busy: true, leaves: map[byte]*[leaves]uint64{0: {}, 9: {1: 4}}, documents: []uint64{1}, state: []byte{8, 0}, partial: true,
		marks: &markReply{fold: [buckets]uint64{6: 7}, hashes: []uint64{8, 9}, covered: 200}}
	if got, err := decodeDigestReply(encodeDigestReply(&r)[2:]); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("digest reply: %+v, %v", got, err)
	}
	if got, err := decodeSummaries(encodeSummaries(summariesRequest{[]uint16{1, 65535}})[2:]); err != nil || !reflect.DeepEqual(got.leaves, []uint16{1, 65535}) {
		t.Errorf("summaries: %+v, %v", got, err)
	}
	sr := summariesReply{covered: 2, summaries: []session.Summary{{ID: session.ID{4}, Hash: 9}, {ID: session.ID{5}, Hash: 10}}}
	if got, err := decodeSummariesReply(encodeSummariesReply(&sr)[2:]); err != nil || !reflect.DeepEqual(got, sr) {
		t.Errorf("summaries reply: %+v, %v", got, err)
	}
	if got, err := decodePullMarks(encodeHashes(kindPullMarks, []uint64{8, 9})[2:]); err != nil || !slices.Equal(got, []uint64{8, 9}) {
		t.Errorf("pull of watermarks: %v, %v", got, err)
	}
	ids := []session.ID{{1}, {2}}
	if got, err := decodeIDs(encodeIDs(kindPull, ids)[2:]); err != nil || !reflect.DeepEqual(got, ids) {
		t.Errorf("ids: %v, %v", got, err)
	}
	if got, err := decodeFind(encodeFind(session.Key{7})[2:]); err != nil || got != (session.Key{7}) {
		t.Errorf("find: %v, %v", got, err)
	}
	for _, r := range []resolveRequest{{selector: []byte("q")}, {selector: []byte("q"), after: session.ID{3}}} {
		if got, err := decodeResolve(encodeResolve(r)[2:]); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("resolve: %+v, %v", got, err)
		}
	}
}
