// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// TLS content types, alerts and handshake messages in use here (RFC 8446, sections 4, 5.1, 6).
const (
	typeAlert       = 21
	typeHandshake   = 22
	typeApplication = 23

	alertCloseNotify         = 0
	alertUnexpectedMessage   = 10
	alertBadRecordMAC        = 20
	alertRecordOverflow      = 22
	alertCertificateRevoked  = 44
	alertCertificateUnknown  = 46
	alertIllegalParameter    = 47
	alertAccessDenied        = 49
	alertInternalError       = 80
	alertUserCanceled        = 90
	alertCertificateRequired = 116

	messageNewSessionTicket = 4
	messageKeyUpdate        = 24
)

const (
	// maxUseless bounds the records in a row that carry no payload, as crypto/tls does.
	maxUseless = 16
	// maxMessage bounds a post-handshake message; tickets of upstreams carry whole sessions.
	maxMessage = 1 << 16
	// rekeyAfter records the sender changes its key: half of what RFC 8446, section 5.5, allows
	// for AES-GCM.
	rekeyAfter = 1 << 23
)

// tls13Leg is the record layer of TLS 1.3 after the handshake. It decrypts and encrypts within
// the chunk, many records to a system call, and holds no memory but a partial record while it
// waits.
type tls13Leg struct {
	sock   *socket
	client bool // the proxy is the TLS client of this leg

	in      trafficKeys
	carry   []byte // bytes behind the last whole record
	hand    []byte // a post-handshake message in parts
	useless int
	err     error // sticky: what reading ended with

	mu     sync.Mutex // held across writes; the reader never waits for it
	out    trafficKeys
	closed bool
	due    uint8 // the alert that the peer deserves, or 0
	// rekey is set by the reader when the peer asks for a new key of ours.
	rekey atomic.Bool
}

func (l *tls13Leg) read() (*chunk, error) {
	for l.err == nil {
		c, n, err := l.fill()
		if err != nil {
			return nil, err
		}
		used, err := l.open(c, n)
		l.keep(c.mem[used:n])
		if l.err = err; err != nil && err != io.EOF {
			l.complain()
		}
		if len(c.spans) > 0 {
			return c, nil
		}
		c.free()
	}
	return nil, l.err
}

// keep sets aside the bytes behind the last whole record.
func (l *tls13Leg) keep(rest []byte) {
	if len(rest) == 0 {
		l.carry = nil
	} else {
		l.carry = append(l.carry[:0], rest...)
	}
}

// fill returns a chunk with bytes in it, waiting for more only where carry holds no whole record.
func (l *tls13Leg) fill() (*chunk, int, error) {
	if len(l.carry) >= recordHeader && len(l.carry) >= recordHeader+bodyLen(l.carry) {
		c := getChunk(false)
		return c, copy(c.mem, l.carry), nil
	}
	c, n, err := l.sock.receive(l.carry)
	if err == io.EOF && len(l.carry) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return c, n, err
}

func bodyLen(header []byte) int { return int(header[3])<<8 | int(header[4]) }

// open decrypts the whole records in c.mem[:n], notes their payload in c.spans, and returns how
// many bytes they take. An error belongs behind the spans: io.EOF for close_notify.
func (l *tls13Leg) open(c *chunk, n int) (used int, err error) {
	for n-used >= recordHeader {
		body := bodyLen(c.mem[used:])
		if c.mem[used] != typeApplication {
			return used, l.fail(alertUnexpectedMessage, fmt.Errorf("record of type %d", c.mem[used]))
		}
		if body > maxInner {
			return used, l.fail(alertRecordOverflow, fmt.Errorf("record of %d bytes", body))
		}
		if n-used < recordHeader+body {
			break
		}
		record := c.mem[used : used+recordHeader+body]
		used += len(record)
		inner, err := l.in.open(record)
		if err != nil {
			return used, l.fail(alertBadRecordMAC, err)
		}
		typ, data := splitInner(inner)
		if len(data) > maxPayload {
			return used, l.fail(alertRecordOverflow, errors.New("record too long"))
		}
		if typ == typeApplication && len(data) > 0 && len(l.hand) == 0 {
			l.useless = 0
			c.spans = append(c.spans, span{used - len(record) + recordHeader, len(data)})
			continue
		}
		if err := l.control(typ, data); err != nil {
			return used, err
		}
	}
	return used, nil
}

// splitInner takes padding and content type off a decrypted record; type 0 if there is none.
func splitInner(inner []byte) (typ byte, data []byte) {
	i := len(inner) - 1
	for i >= 0 && inner[i] == 0 {
		i--
	}
	if i < 0 {
		return 0, nil
	}
	return inner[i], inner[:i]
}

// control handles a record without payload.
func (l *tls13Leg) control(typ byte, data []byte) error {
	if l.useless++; l.useless > maxUseless {
		return l.fail(alertUnexpectedMessage, errors.New("too many records without payload"))
	}
	switch {
	case typ == typeAlert && len(data) == 2 && len(l.hand) == 0:
		switch data[1] {
		case alertCloseNotify:
			return io.EOF
		case alertUserCanceled:
			return nil
		}
		return fmt.Errorf("tls: alert %d from the peer", data[1])
	case typ == typeHandshake && len(data) > 0:
		l.hand = append(l.hand, data...)
		return l.messages()
	case typ == typeApplication && len(data) == 0 && len(l.hand) == 0:
		return nil
	}
	return l.fail(alertUnexpectedMessage, fmt.Errorf("content type %d", typ))
}

// messages handles the whole post-handshake messages in l.hand.
func (l *tls13Leg) messages() error {
	for len(l.hand) >= 4 {
		typ, n := l.hand[0], int(l.hand[1])<<16|int(l.hand[2])<<8|int(l.hand[3])
		if n > maxMessage {
			return l.fail(alertUnexpectedMessage, fmt.Errorf("message of %d bytes", n))
		}
		if len(l.hand) < 4+n {
			return nil
		}
		body := l.hand[4 : 4+n]
		switch {
		case typ == messageKeyUpdate && n == 1 && body[0] <= 1:
			if len(l.hand) != 4+n { // a change of keys ends its record (section 5.1)
				return l.fail(alertUnexpectedMessage, errors.New("bytes behind a KeyUpdate"))
			}
			if body[0] == 1 {
				l.rekey.Store(true)
			}
			l.in.update()
		case typ == messageNewSessionTicket && l.client: // resumption is not wanted
		default:
			return l.fail(alertUnexpectedMessage, fmt.Errorf("message of type %d", typ))
		}
		l.hand = l.hand[4+n:]
	}
	if len(l.hand) == 0 {
		l.hand = nil
	}
	return nil
}

// fail notes the alert that the peer deserves, and returns err.
func (l *tls13Leg) fail(description uint8, err error) error {
	l.due = description
	return fmt.Errorf("tls: %w", err)
}

// lastWords returns the record of the alert that is due, or nil.
func (l *tls13Leg) lastWords() []byte {
	if l.closed || l.due == 0 {
		return nil
	}
	l.closed = true
	return l.record(typeAlert, 2, l.due)
}

// complain sends the alert that is due unless a writer is in the way, who may be stuck for ever.
func (l *tls13Leg) complain() {
	if l.mu.TryLock() {
		defer l.mu.Unlock()
		if record := l.lastWords(); record != nil {
			_ = l.sock.send(record) // best effort: the connection ends either way
		}
	}
}

// record makes a record of its own.
func (l *tls13Leg) record(typ byte, data ...byte) []byte {
	record := make([]byte, recordHeader+len(data)+recordTail)
	copy(record[recordHeader:], data)
	l.out.seal(record, span{recordHeader, len(data)}, typ)
	return record
}

// seal makes records of c's spans, and returns them as few buffers, with that of last behind them.
// The keys are changed first where that is due.
func (l *tls13Leg) seal(c *chunk, last func() []byte) [][]byte {
	c.bufs = c.bufs[:0]
	if len(c.spans) > 0 && (l.rekey.Load() || l.out.seq >= rekeyAfter) {
		l.rekey.Store(false)
		c.bufs = append(c.bufs, l.record(typeHandshake, messageKeyUpdate, 0, 0, 1, 0))
		l.out.update()
	}
	start, end := 0, 0
	for _, s := range c.spans {
		l.out.seal(c.mem, s, typeApplication)
		if off := s.off - recordHeader; off != end || end == 0 {
			if end > 0 {
				c.bufs = append(c.bufs, c.mem[start:end])
			}
			start = off
		}
		end = s.off + s.n + recordTail
	}
	if end > 0 {
		c.bufs = append(c.bufs, c.mem[start:end])
	}
	if last != nil {
		if record := last(); record != nil {
			c.bufs = append(c.bufs, record)
		}
	}
	return c.bufs
}

// closing returns the close_notify record, or nil where an alert was sent already.
func (l *tls13Leg) closing() []byte {
	if l.closed {
		return nil
	}
	l.closed = true
	return l.record(typeAlert, 1, alertCloseNotify)
}

func (l *tls13Leg) write(c *chunk) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sock.send(l.seal(c, nil)...)
}

func (l *tls13Leg) closeWrite() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.endLocked(l.closing())
}

// alert ends the writing side with a fatal alert.
func (l *tls13Leg) alert(description uint8) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due = description
	return l.endLocked(l.lastWords())
}

func (l *tls13Leg) endLocked(record []byte) error {
	if record != nil {
		if err := l.sock.send(record); err != nil {
			return err
		}
	}
	return l.sock.tcp.CloseWrite()
}
