// SPDX-License-Identifier: Apache-2.0

//go:build linux

package zero

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// A lane is one direction of a connection, made of frames: when it was handed to the kernel
// (CLOCK_BOOTTIME), its length, its number, and filler.
//
// Both ends are in this process, so what arrived is known to the byte: the receiver checks the frames,
// the sender knows the stamp of the frame that the last byte was of.
type lane struct {
	mu       sync.Mutex
	sent     []frame
	received int64 // bytes
	err      error // what was received is not what was sent
}

type frame struct {
	at  session.Instant
	end int64 // of the frame, in the lane
}

const (
	frameHeader = 16
	maxFrame    = 64 << 10
)

// write sends a frame of n bytes.
func (l *lane) write(conn net.Conn, buf []byte, n int) error {
	l.mu.Lock()
	f := frame{at: now(), end: int64(n)}
	number := len(l.sent)
	if number > 0 {
		f.end += l.sent[number-1].end
	}
	l.sent = append(l.sent, f)
	l.mu.Unlock()
	binary.BigEndian.PutUint64(buf, uint64(f.at))
	binary.BigEndian.PutUint32(buf[8:], uint32(n))
	binary.BigEndian.PutUint32(buf[12:], uint32(number))
	_, err := conn.Write(buf[:n])
	return err
}

// reader takes a lane's bytes as they come.
type reader struct {
	lane    *lane
	pending []byte // of an incomplete frame
	number  int
}

// take adds bytes and returns how many frames they completed.
func (r *reader) take(b []byte) (whole int) {
	r.lane.mu.Lock()
	defer r.lane.mu.Unlock()
	r.lane.received += int64(len(b))
	r.pending = append(r.pending, b...)
	for len(r.pending) >= frameHeader && r.lane.err == nil {
		n := int(binary.BigEndian.Uint32(r.pending[8:]))
		if len(r.pending) < n {
			return whole
		}
		at, number := session.Instant(binary.BigEndian.Uint64(r.pending)), int(binary.BigEndian.Uint32(r.pending[12:]))
		if number != r.number || number >= len(r.lane.sent) || r.lane.sent[number].at != at || n < frameHeader {
			r.lane.err = fmt.Errorf("frame %d arrived as number %d, %d bytes", r.number, number, n)
			return whole
		}
		r.pending = r.pending[n:]
		r.number++
		whole++
	}
	return whole
}

// tally says how many bytes were sent before the deadline, and how many that were sent after it arrived.
func (l *lane) tally(deadline session.Instant) (before, late int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.sent {
		if f.at > deadline {
			break
		}
		before = f.end
	}
	return before, max(0, l.received-before), l.err
}

// pace is how an end sends.
type pace struct {
	min, max int           // bytes of a frame
	rest     time.Duration // between two frames, at least; twice that at most
	answer   bool          // a frame for each one that comes, instead
	open     bool          // with answer: begins
	until    session.Instant
}

var (
	mute  = pace{}
	small = pace{min: frameHeader, max: 512, rest: 2 * time.Millisecond}
	large = pace{min: 8 << 10, max: maxFrame, rest: 15 * time.Millisecond}
	asks  = pace{min: frameHeader, max: 4 << 10, rest: time.Millisecond, answer: true, open: true}
	// The first one answers the hello.
	answers = pace{min: frameHeader, max: 8 << 10, rest: 100 * time.Microsecond, answer: true, open: true}
)

// end is one end of a connection.
type end struct {
	conn    net.Conn
	out, in *lane
	pace    pace
	rand    *rand.Rand

	stallFrom, stallTo session.Instant // it reads nothing meanwhile

	nudged bool // it learned of its end because it sent something

	came  chan struct{} // frames that have come in
	ended chan struct{} // closed when reading has failed
	at    session.Instant
	err   error
	wg    sync.WaitGroup
}

func (e *end) start() {
	e.came, e.ended = make(chan struct{}, 1<<16), make(chan struct{})
	e.wg.Go(e.receive)
	e.wg.Go(e.send)
}

// stop closes the connection and waits.
func (e *end) stop() {
	if e == nil {
		return
	}
	_ = e.conn.Close() // it has ended
	if e.ended != nil {
		e.wg.Wait()
	}
}

func (e *end) receive() {
	defer close(e.ended)
	r, buf := reader{lane: e.in}, make([]byte, maxFrame)
	for {
		if at := now(); at >= e.stallFrom && at < e.stallTo {
			time.Sleep(e.stallTo.Sub(at))
		}
		n, err := e.conn.Read(buf)
		if err != nil {
			e.at, e.err = now(), err
		}
		for range r.take(buf[:n]) {
			select {
			case e.came <- struct{}{}:
			default: // a stream: nobody waits
			}
		}
		if err != nil {
			return
		}
	}
}

// send goes on until it cannot: also after the deadline, and after reading has ended.
func (e *end) send() {
	p, buf := e.pace, make([]byte, maxFrame)
	for first := true; p.max > 0; first = false {
		if p.answer && !(first && p.open) {
			select {
			case <-e.came:
			case <-e.ended:
				return
			}
		}
		if !first || !p.open {
			time.Sleep(p.rest + time.Duration(e.rand.Int64N(int64(p.rest))))
		}
		if p.until != 0 && now() >= p.until {
			return
		}
		if err := e.out.write(e.conn, buf, p.min+e.rand.IntN(p.max-p.min)); err != nil {
			return
		}
	}
}

// over reports whether the end has been seen.
func (e *end) over() bool {
	select {
	case <-e.ended:
		return true
	default:
		return false
	}
}

// silent reports whether the end has nothing to say any more.
func (e *end) silent() bool { return e.pace.max == 0 || e.pace.until != 0 }

// nudge sends something, which must be answered with a reset.
func (e *end) nudge() {
	_ = e.out.write(e.conn, make([]byte, frameHeader), frameHeader) // fails if it is over already
}

// late is how long after the instant the end was seen, without the time when nobody looked.
func (e *end) late(since session.Instant) time.Duration {
	if e.at >= e.stallTo {
		since = max(since, e.stallTo)
	}
	return e.at.Sub(since)
}
