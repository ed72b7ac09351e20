// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bpf

import (
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reset reports whether the far end has been reset.
func reset(t testing.TB, p pair) bool {
	t.Helper()
	_ = p.far.SetReadDeadline(time.Now().Add(time.Second)) // fails on a dead socket, as the read will
	_, err := io.Copy(io.Discard, p.far)
	return errors.Is(err, unix.ECONNRESET)
}

func TestSweepDestroysExactlyWhatEnded(t *testing.T) {
	for _, fallback := range []bool{false, true} {
		t.Run(map[bool]string{false: "bpf_sock_destroy", true: "list and netlink"}[fallback], func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			w := &walker{sweep: r.objects.sweep, list: r.objects.list}
			if fallback {
				w.sweep = nil
			}
			untagged := r.connect("tcp4")
			r.open(1, time.Hour)
			alive := r.connect("tcp4")
			r.tag(&alive, 1, 0)

			want := map[uint64]pair{}
			verdicts := map[uint64]Verdict{}
			deadline := r.open(2, 500*time.Millisecond)
			for i, network := range []string{"tcp4", "tcp6", "tcp"} {
				p := r.connect(network)
				r.tag(&p, 2, 0)
				want[p.sock.Cookie], verdicts[p.sock.Cookie] = p, SessionOver
				own := r.connect(network)
				r.tag(&own, 1, deadline)
				want[own.sock.Cookie], verdicts[own.sock.Cookie] = own, ConnectionOver
				gone := r.connect(network)
				r.open(uint64(10+i), time.Hour)
				r.tag(&gone, uint64(10+i), 0)
				r.proxy.do(order{Do: "end", Number: uint64(10 + i)})
				want[gone.sock.Cookie], verdicts[gone.sock.Cookie] = gone, NoSession
			}
			passed(deadline)
			done, err := w.Sweep()
			if err != nil {
				t.Fatal(err)
			}
			if len(done) != len(want) {
				t.Errorf("%d records, want %d: %v", len(done), len(want), done)
			}
			for _, rec := range done {
				p, ok := want[rec.Socket.Cookie]
				if !ok || rec.Outcome != Destroyed || rec.Verdict != verdicts[rec.Socket.Cookie] || rec.Socket != p.sock {
					t.Errorf("record %+v for %+v", rec, p.sock)
					continue
				}
				if !reset(t, p) {
					t.Errorf("the far end of %v was not reset", p.sock.Tuple)
				}
				if a := r.proxy.try(order{Do: "read", Conn: p.conn, Bytes: 1}); a.Kind != unix.ECONNABORTED.Error() {
					t.Errorf("the proxy's end of %v reads %q", p.sock.Tuple, a.Err)
				}
			}
			if !r.passes(alive) || !r.passes(untagged) {
				t.Error("a connection that had not ended is cut")
			}
			if again, err := w.Sweep(); err != nil || len(again) != 0 {
				t.Errorf("a second sweep found %v, %v", again, err)
			}
		})
	}
}

// Keeps out: the seq_file shows a socket twice when its record does not fit the buffer.
func TestSweepReportsEachSocketOnce(t *testing.T) {
	t.Parallel()
	const n = 700 // records of 64 bytes, buffers of 32 KiB
	r := newRig(t)
	r.open(1, time.Hour)
	at := mustAddrPort(r.proxy.do(order{Do: "listen", Network: "tcp4", Addr: "127.0.0.1:0"}).Addr)
	seen := map[uint64]int{}
	for range n {
		p := r.accept(at)
		r.tag(&p, 1, 0)
		seen[p.sock.Cookie] = 0
	}
	listed, err := r.objects.List()
	if err != nil || len(listed) != n {
		t.Fatalf("list: %d records, %v", len(listed), err)
	}
	r.proxy.do(order{Do: "end", Number: 1})
	done, err := r.objects.Sweep()
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range done {
		seen[rec.Socket.Cookie]++
		if rec.Outcome != Destroyed {
			t.Errorf("outcome %v", rec.Outcome)
		}
	}
	for cookie, times := range seen {
		if times != 1 {
			t.Errorf("socket %d reported %d times", cookie, times)
		}
	}
	if len(seen) != n {
		t.Errorf("%d sockets reported, want %d", len(seen), n)
	}
}

func TestListShowsTagged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("tcp4")
	r.open(1, time.Hour)
	p := r.connect("tcp4")
	r.tag(&p, 1, 0)
	all, err := r.objects.List()
	if err != nil || len(all) != 1 {
		t.Fatalf("list: %v, %v", all, err)
	}
	want := Record{Socket: p.sock, Number: 1, Verdict: Alive, State: 1, Outcome: Untouched}
	if all[0] != want {
		t.Errorf("have %+v, want %+v", all[0], want)
	}
}

func FuzzDecodeRecords(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, recordSize))
	valid := make([]byte, 2*recordSize)
	valid[8], valid[recordSize+8] = 1, 2
	f.Add(valid)
	f.Add(valid[:recordSize+1])
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		err := decodeRecords(b, func(r *curfewRecord) {
			n++
			if rec := r.record(); rec.Number == 0 || rec.Verdict > ConnectionOver || !rec.Socket.Tuple.Local.IsValid() {
				t.Errorf("decoded %+v", rec)
			}
		})
		if err == nil && n*recordSize != len(b) {
			t.Errorf("%d records of %d bytes and no error", n, len(b))
		}
	})
}

func TestOutcomeOf(t *testing.T) {
	for result, want := range map[int32]Outcome{0: Destroyed, 1: Untouched, -int32(unix.ENOENT): Gone, -int32(unix.EINVAL): Failed} {
		if got := outcomeOf(result); got != want {
			t.Errorf("outcome of %d: %v, want %v", result, got, want)
		}
	}
}
