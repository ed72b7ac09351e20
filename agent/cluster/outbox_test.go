// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

func testOutbox() *outbox {
	o := newOutbox()
	o.setOpen(true)
	return o
}

func testWriter() *stateWriter {
	return newStateWriter(originA, 7, func(o session.Origin) remoteClock { return remoteClock{origin: o} })
}

// taken decodes what is due.
func taken(t *testing.T, o *outbox, now session.Instant) (list []item, next session.Instant) {
	t.Helper()
	packets, _, next := o.take(now, 0, testWriter)
	for _, b := range packets {
		if len(b) > maxPacket {
			t.Errorf("a packet of %d bytes", len(b))
		}
		_, body, err := openMessage(b, maxMessage)
		if err != nil {
			t.Fatal(err)
		}
		s, err := decodeState(body)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s.items...)
	}
	return list, next
}

func put(o *outbox, kind itemKind, id byte, due session.Instant) {
	o.put(sessionKey(session.ID{id}), item{kind: kind, body: []byte{1, id}}, due, nil, func() (item, bool) { return item{kind: itemCreate, body: []byte{2, id}}, true })
}

func TestOutboxSendsUntilAcknowledged(t *testing.T) {
	o := testOutbox()
	now := session.Instant(time.Hour)
	put(o, itemCreate, 1, now)
	var waits []time.Duration
	var number uint64
	for range 12 {
		list, next := taken(t, o, now)
		if len(list) != 1 || number != 0 && list[0].number != number {
			t.Fatalf("%+v", list)
		}
		number = list[0].number
		waits = append(waits, next.Sub(now))
		if early, _ := taken(t, o, next-1); len(early) > 0 {
			t.Fatal("sent again too early")
		}
		now = next
	}
	if waits[0] != resendFirst || waits[1] != resendFirst*3/2 || waits[11] != resendLast {
		t.Errorf("waits %v", waits)
	}
	o.acked([]uint64{number + 1, number, number})
	if list, next := taken(t, o, now.Add(time.Hour)); len(list) != 0 || next != 0 || o.length() != 0 {
		t.Errorf("after the acknowledgement: %+v, %v", list, next)
	}
	if slow := resendAfter(0, 40*time.Millisecond); slow != 60*time.Millisecond {
		t.Errorf("over a long way sent again after %v", slow)
	}
}

func TestOutboxOrderAndReplacement(t *testing.T) {
	o := testOutbox()
	now := session.Instant(time.Hour)
	put(o, itemActivity, 1, now)
	put(o, itemCreate, 2, now)
	put(o, itemCreate, 3, now)
	put(o, itemActivity, 3, now) // its CREATE is not acknowledged: the whole again
	put(o, itemCreate, 4, now)
	put(o, itemRevoke, 4, now)
	put(o, itemActivity, 4, now) // has ended: nothing else matters
	o.put(outboxKey{kind: itemReport}, item{kind: itemReport, body: []byte{1}}, now, nil, nil)
	list, _ := taken(t, o, now)
	var kinds []itemKind
	for _, it := range list {
		kinds = append(kinds, it.kind)
	}
	want := []itemKind{itemRevoke, itemCreate, itemCreate, itemActivity, itemReport}
	if len(kinds) != len(want) {
		t.Fatalf("%v, want %v", kinds, want)
	}
	for i := range want {
		if kinds[i] != want[i] {
			t.Fatalf("%v, want %v", kinds, want)
		}
	}
	if string(list[2].body) != "\x02\x03" {
		t.Errorf("activity replaced a creation that is not acknowledged: %x", list[2].body)
	}
	// The acknowledgement of what was replaced is none of what replaced it.
	put(o, itemCreate, 2, now)
	o.acked([]uint64{list[1].number})
	if o.length() != 5 {
		t.Errorf("%d items wait", o.length())
	}
}

func TestOutboxBatchesActivity(t *testing.T) {
	o := testOutbox()
	now := session.Instant(time.Hour)
	put(o, itemActivity, 1, now.Add(batchActivity))
	put(o, itemActivity, 2, now.Add(batchActivity+20*time.Millisecond))
	list, next := taken(t, o, now)
	if len(list) != 0 || next != now.Add(batchActivity) {
		t.Fatalf("%+v, %v", list, next.Sub(now))
	}
	if list, _ = taken(t, o, next); len(list) != 2 {
		t.Errorf("one packet for each of %d", len(list))
	}
}

func TestOutboxIsBounded(t *testing.T) {
	o := testOutbox()
	now := session.Instant(time.Hour)
	for i := range limits[classCreate] + 10 {
		o.put(sessionKey(session.ID{byte(i), byte(i >> 8), byte(i >> 16)}), item{kind: itemCreate}, now, nil, nil)
	}
	o.put(outboxKey{kind: itemKill}, item{kind: itemKill}, now, &killTask{}, nil)
	if n := o.length(); n > limits[classCreate] {
		t.Errorf("%d items wait", n)
	}
	if !o.overflowed() || o.overflowed() {
		t.Error("the overflow is not told of once")
	}
	list, _ := taken(t, o, now)
	if len(list) == 0 || list[0].kind != itemKill {
		t.Error("what somebody waits for was dropped")
	}
}

// Of a peer that is gone only that is kept which anti-entropy does not bring when it is back.
func TestClosedOutbox(t *testing.T) {
	o, kill := testOutbox(), &killTask{}
	now := session.Instant(time.Hour)
	order := func(n uint64) { o.put(outboxKey{kind: itemKill, n: n}, item{kind: itemKill}, now, kill, nil) }
	report := func(n uint64) { o.put(outboxKey{kind: itemReport, n: n}, item{kind: itemReport}, now, nil, nil) }
	put(o, itemCreate, 1, now)
	order(1)
	report(1)
	taken(t, o, now)
	o.setOpen(false)
	put(o, itemCreate, 2, now)
	order(2)
	report(2)
	if n := o.length(); n != 4 {
		t.Errorf("%d items are kept", n)
	}
	o.setOpen(true)
	if list, _ := taken(t, o, now.Add(time.Second)); len(list) != 4 {
		t.Errorf("sent to who is back: %+v", list)
	}
	kill.over.Store(true)
	o.clean()
	if n := o.length(); n != 4 {
		t.Errorf("%d items are still sent", n)
	}
	o.setOpen(false)
	order(3)
	if n := o.length(); n != 2 {
		t.Errorf("%d items are kept though nobody waits", n)
	}
	for i := range uint64(2 * limits[classRest]) {
		report(10 + i)
	}
	if n := o.length(); n > limits[classRest]+2 {
		t.Errorf("%d reports are kept", n)
	}
}

// At most a window is in flight, and what was sent is sent again though others wait for their turn.
func TestOutboxWindow(t *testing.T) {
	o := testOutbox()
	now := session.Instant(time.Hour)
	for i := range 2000 {
		o.put(sessionKey(session.ID{byte(i), byte(i >> 8), 1}), item{kind: itemCreate, body: make([]byte, 50)}, now, nil, nil)
	}
	sent := map[uint64]int{}
	for range 100 {
		list, next := taken(t, o, now)
		for _, it := range list {
			sent[it.number]++
		}
		if next > now.Add(resendLast) {
			t.Fatal("it sleeps while something waits")
		}
		now = max(next, now+1)
	}
	if len(sent) != windows[classCreate] {
		t.Errorf("%d in flight", len(sent))
	}
	for n, times := range sent {
		if times < 2 {
			t.Errorf("item %d was sent %d times", n, times)
		}
		o.acked([]uint64{n})
	}
	if list, _ := taken(t, o, now); len(list) == 0 {
		t.Error("acknowledgements do not open the window")
	}
}

func TestWindowOfWhatWasReceived(t *testing.T) {
	var w window
	if apply, done := w.begin(1); !apply || done {
		t.Error("a new item is not applied")
	}
	if apply, done := w.begin(1); apply || done {
		t.Error("an item is applied twice at a time")
	}
	w.end(1, false)
	if apply, _ := w.begin(1); !apply {
		t.Error("what was not applied is not applied again")
	}
	w.end(1, true)
	if apply, done := w.begin(1); apply || !done {
		t.Error("what was applied is not acknowledged at once")
	}
	for i := range uint64(3 * windowSize) {
		w.begin(i)
		w.end(i, true)
	}
	if len(w.done) > windowSize || len(w.order) > windowSize || len(w.pending) > 0 {
		t.Errorf("it remembers %d items", len(w.done))
	}
}
