// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"
)

// legPair is tls13Leg on one side of a socket and trafficKeys of ours on the other.
type legPair struct {
	leg  *tls13Leg
	peer net.Conn
	in   trafficKeys // what the peer seals with
	out  trafficKeys // what the peer opens with
}

func newLegPair(t testing.TB, id uint16, client bool) *legPair {
	t.Helper()
	l := listenTCP(t, "127.0.0.1:0")
	defer l.Close()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close(); c.Close() })
	for _, c := range []net.Conn{peer, c} {
		_ = c.SetDeadline(time.Now().Add(patience))
	}
	sock, err := newSocket(c)
	if err != nil {
		t.Fatal(err)
	}
	keys := func(b byte) trafficKeys {
		k, err := newTrafficKeys(suites[id], bytes.Repeat([]byte{b}, suites[id].hash().Size()))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	return &legPair{
		leg:  &tls13Leg{sock: sock, client: client, in: keys(1), out: keys(2)},
		peer: peer, in: keys(1), out: keys(2),
	}
}

// record seals data as the peer, with padding.
func (p *legPair) record(typ byte, data []byte, padding int) []byte {
	mem := make([]byte, recordHeader+len(data)+padding+recordTail)
	copy(mem[recordHeader:], data)
	if padding == 0 {
		p.in.seal(mem, span{recordHeader, len(data)}, typ)
		return mem
	}
	mem[recordHeader+len(data)] = typ
	p.in.seal(mem, span{recordHeader, len(data) + padding}, 0) // the type is then the last padding
	return mem
}

// send writes records to the leg.
func (p *legPair) send(t testing.TB, records ...[]byte) {
	t.Helper()
	if _, err := p.peer.Write(bytes.Join(records, nil)); err != nil {
		t.Fatal(err)
	}
}

// drain reads payload from the leg until an error.
func (p *legPair) drain() (payload []byte, err error) {
	for {
		c, err := p.leg.read()
		if err != nil {
			return payload, err
		}
		for _, s := range c.spans {
			payload = append(payload, c.mem[s.off:s.off+s.n]...)
		}
		c.free()
	}
}

// next opens one record that the leg sent.
func (p *legPair) next(t testing.TB) (typ byte, data []byte) {
	t.Helper()
	record := make([]byte, recordHeader)
	if _, err := io.ReadFull(p.peer, record); err != nil {
		t.Fatal(err)
	}
	record = append(record, make([]byte, bodyLen(record))...)
	if _, err := io.ReadFull(p.peer, record[recordHeader:]); err != nil {
		t.Fatal(err)
	}
	inner, err := p.out.open(record)
	if err != nil {
		t.Fatal(err)
	}
	return splitInner(inner)
}

var (
	keyUpdate      = []byte{messageKeyUpdate, 0, 0, 1, 0}
	keyUpdateAsked = []byte{messageKeyUpdate, 0, 0, 1, 1}
	ticket         = []byte{messageNewSessionTicket, 0, 0, 3, 1, 2, 3}
)

// TestRecords: what a peer may send after the handshake, and what it may not.
func TestRecords(t *testing.T) {
	type test struct {
		name    string
		client  bool
		send    func(*legPair) [][]byte
		payload string
		eof     bool
		alert   byte // that the leg answers with; 0: none
	}
	app := func(p *legPair, s string) []byte { return p.record(typeApplication, []byte(s), 0) }
	closing := func(p *legPair) []byte { return p.record(typeAlert, []byte{1, alertCloseNotify}, 0) }
	tests := []test{
		{name: "payload", payload: "ab", eof: true, send: func(p *legPair) [][]byte {
			return [][]byte{app(p, "a"), app(p, "b"), closing(p)}
		}},
		{name: "padding", payload: "ab", eof: true, send: func(p *legPair) [][]byte {
			return [][]byte{p.record(typeApplication, []byte("a"), 100), p.record(typeApplication, nil, 200), app(p, "b"), closing(p)}
		}},
		{name: "key update", payload: "abc", eof: true, send: func(p *legPair) (b [][]byte) {
			for _, s := range []string{"a", "b", "c"} {
				b = append(b, app(p, s), p.record(typeHandshake, keyUpdate, 0))
				p.in.update()
			}
			return append(b, closing(p))
		}},
		{name: "key update in parts", payload: "a", eof: true, send: func(p *legPair) [][]byte {
			b := [][]byte{p.record(typeHandshake, keyUpdate[:2], 0), p.record(typeHandshake, keyUpdate[2:], 0)}
			p.in.update()
			return append(b, app(p, "a"), closing(p))
		}},
		{name: "user canceled", payload: "a", eof: true, send: func(p *legPair) [][]byte {
			return [][]byte{p.record(typeAlert, []byte{1, alertUserCanceled}, 0), app(p, "a"), closing(p)}
		}},
		{name: "ticket from a server", client: true, payload: "a", eof: true, send: func(p *legPair) [][]byte {
			return [][]byte{p.record(typeHandshake, append(bytes.Clone(ticket), ticket...), 0), app(p, "a"), closing(p)}
		}},
		{name: "ticket from a client", payload: "a", alert: alertUnexpectedMessage, send: func(p *legPair) [][]byte {
			return [][]byte{app(p, "a"), p.record(typeHandshake, ticket, 0)}
		}},
		{name: "bytes behind a key update", alert: alertUnexpectedMessage, send: func(p *legPair) [][]byte {
			return [][]byte{p.record(typeHandshake, append(bytes.Clone(keyUpdate), 24), 0)}
		}},
		{name: "payload within a message", alert: alertUnexpectedMessage, send: func(p *legPair) [][]byte {
			return [][]byte{p.record(typeHandshake, keyUpdate[:2], 0), app(p, "a")}
		}},
		{name: "renegotiation", alert: alertUnexpectedMessage, send: func(p *legPair) [][]byte {
			return [][]byte{p.record(typeHandshake, []byte{1, 0, 0, 0}, 0)}
		}},
		{name: "a forged record", payload: "a", alert: alertBadRecordMAC, send: func(p *legPair) [][]byte {
			forged := app(p, "b")
			first := p.in
			first.seq = 0
			q := &legPair{in: first}
			a := app(q, "a")
			forged[7] ^= 1
			return [][]byte{a, forged}
		}},
		{name: "a replayed record", payload: "a", alert: alertBadRecordMAC, send: func(p *legPair) [][]byte {
			a := app(p, "a")
			return [][]byte{a, a}
		}},
		{name: "plaintext", alert: alertUnexpectedMessage, send: func(*legPair) [][]byte {
			return [][]byte{{typeAlert, 3, 3, 0, 2, 1, 0}}
		}},
		{name: "record too long", alert: alertRecordOverflow, send: func(*legPair) [][]byte {
			return [][]byte{{typeApplication, 3, 3, 0xff, 0xff}}
		}},
		{name: "payload too long", alert: alertRecordOverflow, send: func(p *legPair) [][]byte {
			return [][]byte{p.record(typeApplication, make([]byte, maxPayload+1), 0)}
		}},
		{name: "nothing but padding", alert: alertUnexpectedMessage, send: func(p *legPair) [][]byte {
			return [][]byte{p.record(0, nil, 5)}
		}},
		{name: "endless empty records", alert: alertUnexpectedMessage, send: func(p *legPair) (b [][]byte) {
			for range maxUseless + 1 {
				b = append(b, app(p, ""))
			}
			return b
		}},
	}
	for _, test := range tests {
		for id := range suites {
			t.Run(fmt.Sprintf("%s/%s", test.name, tls.CipherSuiteName(id)), func(t *testing.T) {
				p := newLegPair(t, id, test.client)
				p.send(t, test.send(p)...)
				payload, err := p.drain()
				if string(payload) != test.payload {
					t.Errorf("payload %q, want %q", payload, test.payload)
				}
				if (err == io.EOF) != test.eof {
					t.Errorf("ended with %v", err)
				}
				if again, err2 := p.drain(); len(again) > 0 || !errors.Is(err2, err) {
					t.Errorf("went on with %q, %v", again, err2)
				}
				if test.alert != 0 {
					if typ, data := p.next(t); typ != typeAlert || !bytes.Equal(data, []byte{2, test.alert}) {
						t.Errorf("answered %d %v, want alert %d", typ, data, test.alert)
					}
				}
			})
		}
	}
}

// TestCutRecords: records that come byte by byte, and a stream that ends within one.
func TestCutRecords(t *testing.T) {
	p := newLegPair(t, tls.TLS_AES_128_GCM_SHA256, false)
	b := append(p.record(typeApplication, []byte("one"), 0), p.record(typeApplication, []byte("two"), 3)...)
	b = append(b, p.record(typeApplication, []byte("cut"), 0)[:10]...)
	go func() {
		for i := range b {
			_, _ = p.peer.Write(b[i : i+1])
		}
		p.peer.Close()
	}()
	payload, err := p.drain()
	if string(payload) != "onetwo" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("%q, %v", payload, err)
	}
}

// TestReadAhead: whole records that were read with the handshake must not wait for the socket.
func TestReadAhead(t *testing.T) {
	p := newLegPair(t, tls.TLS_AES_128_GCM_SHA256, false)
	p.leg.carry = append(p.record(typeApplication, []byte("early"), 0), p.record(typeApplication, []byte("bird"), 0)[:7]...)
	c, err := p.leg.read()
	if err != nil {
		t.Fatal(err)
	}
	defer c.free()
	if got := string(bytes.Join(c.gather(), nil)); got != "early" {
		t.Fatalf("%q", got)
	}
}

// TestRekey: a peer that asks for new keys gets them before the next payload, and so does one
// whose keys were used enough.
func TestRekey(t *testing.T) {
	for name, prepare := range map[string]func(*legPair){
		"asked": func(p *legPair) {
			p.send(t, p.record(typeHandshake, keyUpdateAsked, 0))
			p.in.update()
			p.send(t, p.record(typeApplication, []byte("x"), 0))
			c, err := p.leg.read()
			if err != nil {
				t.Fatal(err)
			}
			c.free()
		},
		"used up": func(p *legPair) { p.leg.out.seq, p.out.seq = rekeyAfter, rekeyAfter },
	} {
		t.Run(name, func(t *testing.T) {
			p := newLegPair(t, tls.TLS_AES_256_GCM_SHA384, false)
			prepare(p)
			if err := writeBytes(p.leg, []byte("a")); err != nil {
				t.Fatal(err)
			}
			if typ, data := p.next(t); typ != typeHandshake || !bytes.Equal(data, keyUpdate) {
				t.Fatalf("%d %v", typ, data)
			}
			p.out.update()
			if typ, data := p.next(t); typ != typeApplication || string(data) != "a" {
				t.Fatalf("%d %q", typ, data)
			}
		})
	}
}

// TestOpenSSL: OpenSSL's own client updates keys in both directions over a relayed connection.
func TestOpenSSL(t *testing.T) {
	r := echoRig(t, nil)
	for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
		t.Run(suite, func(t *testing.T) {
			crt, key := writeCert(t, t.TempDir(), "client", r.client)
			cmd := exec.Command("openssl", "s_client", "-connect", r.addrs["db"], "-cert", crt, "-key", key,
				"-ciphersuites", suite, "-brief")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer read.Close()
			cmd.Stdout, cmd.Stderr = write, write
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			write.Close()
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			_ = read.SetReadDeadline(time.Now().Add(patience))
			out := bufio.NewScanner(read)
			// "K" asks for an update of both keys, "k" updates the client's.
			for _, line := range []string{"one", "K", "two", "k", "three", "K", "four"} {
				if _, err := io.WriteString(in, line+"\n"); err != nil {
					t.Fatal(err)
				}
				want := line
				if len(line) == 1 {
					want = "KEYUPDATE"
				}
				for out.Scan() && out.Text() != want {
				}
				if out.Text() != want {
					t.Fatalf("%q was not answered", line)
				}
			}
		})
	}
}

// FuzzRecords: no bytes make the record layer panic, loop or return what was not sealed.
func FuzzRecords(f *testing.F) {
	keys, err := newTrafficKeys(suites[tls.TLS_AES_128_GCM_SHA256], bytes.Repeat([]byte{1}, 32))
	if err != nil {
		f.Fatal(err)
	}
	p := &legPair{in: keys}
	f.Add([]byte{})
	f.Add([]byte{typeApplication, 3, 3, 0, 0})
	f.Add(p.record(typeApplication, []byte("payload"), 0))
	p.in = keys
	f.Add(append(p.record(typeHandshake, keyUpdateAsked, 0), 1, 2, 3))
	p.in = keys
	f.Add(p.record(typeApplication, nil, 300))
	sock := deadSocket(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &tls13Leg{sock: sock, in: keys, out: keys}
		c := getChunk(true)
		defer c.free()
		n := copy(c.mem, b)
		used, _ := l.open(c, n)
		if used > n {
			t.Fatalf("used %d of %d", used, n)
		}
		end := 0
		for _, s := range c.spans {
			if s.off-recordHeader < end || s.n == 0 || s.n > maxPayload {
				t.Fatalf("span %+v behind %d", s, end)
			}
			end = s.off + s.n + recordTail
		}
		if end > used {
			t.Fatalf("spans end at %d, records at %d", end, used)
		}
	})
}

// FuzzMessages: what a peer that knows the keys can put into records.
func FuzzMessages(f *testing.F) {
	f.Add(byte(typeHandshake), keyUpdate, true)
	f.Add(byte(typeHandshake), ticket, true)
	f.Add(byte(typeAlert), []byte{1, 0}, false)
	f.Add(byte(typeApplication), []byte{}, false)
	keys, err := newTrafficKeys(suites[tls.TLS_AES_128_GCM_SHA256], bytes.Repeat([]byte{1}, 32))
	if err != nil {
		f.Fatal(err)
	}
	sock := deadSocket(f)
	f.Fuzz(func(t *testing.T, typ byte, data []byte, client bool) {
		l := &tls13Leg{sock: sock, client: client, in: keys, out: keys}
		for range 2 * maxUseless {
			if l.control(typ, data) != nil {
				return
			}
			if len(l.hand) > 4+maxMessage+len(data) {
				t.Fatalf("%d bytes held", len(l.hand))
			}
		}
		t.Fatal("useless records without end")
	})
}

// deadSocket is a closed one: writes fail at once.
func deadSocket(t testing.TB) *socket {
	l := listenTCP(t, "127.0.0.1:0")
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSocket(c.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	return s
}
