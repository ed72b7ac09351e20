// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// asked sends a member raw bytes and returns its answer.
func asked(t *testing.T, member *Trust, binding, question []byte) reply {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := member.Admit(context.Background(), boundPipe{far, binding})
		_ = far.Close() // the other end reads what came before
		done <- err
	}()
	go func() { _, _ = near.Write(question) }() // the member need not read it all
	var r reply
	if data, err := readFrame(near, maxReply); err == nil {
		if err := json.Unmarshal(data, &r); err != nil {
			t.Errorf("answer: %v", err)
		}
	}
	_ = near.Close() // it was read
	if err := <-done; (err == nil) != (r.Document != nil) {
		t.Errorf("the member says %v, the joiner was told %q", err, r.Error)
	}
	return r
}

func framed(data []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)
}

// question is a good request on a connection with that binding.
func question(t testing.TB, cluster RootID, name string, secret, binding []byte) []byte {
	t.Helper()
	s, err := newState(name)
	if err != nil {
		t.Fatal(err)
	}
	n := s.entry(cluster)
	r := &request{Name: name, Key: n.Key, Seal: n.Seal, Proof: n.Proof, Secret: secret}
	r.Signature = ed25519.Sign(s.key, r.message(binding))
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestEnrolmentRefuses(t *testing.T) {
	w := newWorld(t)
	a := w.cluster("a")[0]
	cluster := RootID(a.Cluster())
	k := w.token(a, TokenOptions{Uses: 9})
	here, elsewhere := bytes.Repeat([]byte{1}, bindingSize), bytes.Repeat([]byte{2}, bindingSize)
	good := question(t, cluster, "b", k.secret[:], here)
	cases := map[string][]byte{
		"recorded on another connection": framed(question(t, cluster, "b", k.secret[:], elsewhere)),
		"of another cluster":             framed(question(t, RootID(bytes.Repeat([]byte("0"), 64)), "b", k.secret[:], here)),
		"without a token":                framed(question(t, cluster, "b", nil, here)),
		"cut":                            framed(good)[:len(good)/2],
		"cut, in a whole frame":          framed(good[:len(good)/2]),
		"bit flipped":                    framed(append(bytes.Clone(good[:20]), append([]byte{good[20] ^ 1}, good[21:]...)...)),
		"oversize":                       framed(bytes.Repeat([]byte("x"), maxRequest+1)),
		"a length alone":                 {0xff, 0xff, 0xff, 0xff},
		"empty":                          framed(nil),
		"garbage":                        framed([]byte("garbage")),
	}
	for what, q := range cases {
		near := make(chan reply, 1)
		go func() { near <- askedOrCut(t, a, here, q, what) }()
		if r := <-near; r.Document != nil {
			t.Errorf("%s: admitted", what)
		}
	}
	wantRoster(t, a, "a")
	if r := asked(t, a, here, framed(good)); r.Error != "" || len(r.Members) != 1 {
		t.Errorf("good: %+v", r.Error)
	}
	wantRoster(t, a, "a", "b")
}

// askedOrCut hangs up after a question that is not whole.
func askedOrCut(t *testing.T, member *Trust, binding, q []byte, what string) reply {
	t.Helper()
	if what != "cut" {
		return asked(t, member, binding, q)
	}
	near, far := net.Pipe()
	go func() {
		_, _ = near.Write(q) // the member reads it
		_ = near.Close()     // and no more
	}()
	if _, err := member.Admit(context.Background(), boundPipe{far, binding}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut: %v", err)
	}
	return reply{}
}

// A joiner that says nothing holds nobody up for longer than its context or the limit.
func TestEnrolmentEndsWithContext(t *testing.T) {
	a := newWorld(t).cluster("a")[0]
	near, far := net.Pipe()
	defer near.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := a.Admit(ctx, boundPipe{far, make([]byte, bindingSize)}); err == nil {
		t.Error("admitted one that said nothing")
	}
}

func FuzzEnrolRequest(f *testing.F) {
	a := newWorld(f).cluster("a")[0]
	binding := bytes.Repeat([]byte{1}, bindingSize)
	f.Add(framed(question(f, RootID(a.Cluster()), "b", make([]byte, secretSize), binding)))
	f.Add(framed([]byte(`{"name":"b"}`)))
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		frame, err := readFrame(bytes.NewReader(data), maxRequest)
		if err != nil {
			return
		}
		r, err := decodeRequest(frame, binding)
		if err != nil {
			return
		}
		if err := a.enrol(a.now.Load(), r); !errors.Is(err, ErrTokenUnknown) && !errors.Is(err, ErrRefused) {
			t.Errorf("a request without a token's secret: %v", err)
		}
	})
}

func FuzzEnrolReply(f *testing.F) {
	a := newWorld(f).cluster("a")[0]
	doc, err := a.Document()
	if err != nil {
		f.Fatal(err)
	}
	whole, err := json.Marshal(reply{Document: doc, Members: []string{"a:1"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(framed(whole))
	f.Add(framed([]byte(`{"error":"token-used"}`)))
	f.Add(framed([]byte(`{"document":null}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		frame, err := readFrame(bytes.NewReader(data), maxReply)
		if err != nil {
			return
		}
		if doc, _, err := decodeReply(frame); err == nil && doc == nil {
			t.Error("neither a document nor an error")
		}
	})
}
