// SPDX-License-Identifier: Apache-2.0

//go:build linux

package zero

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/lab"
)

// packet is a captured TCP segment that is no reset.
type packet struct {
	at      session.Instant
	payload int
	out     bool // it left the agent's host; else it came in, and the gate has yet to see it
}

// flow names a socket of the agent's host: its own address and its peer's.
type flow struct{ local, remote netip.AddrPort }

// capture records every TCP segment but resets that the agent's host sends or gets, on all its
// interfaces. Outgoing packets have passed the gate when they are seen here.
type capture struct {
	fd     int
	offset time.Duration // CLOCK_BOOTTIME - CLOCK_REALTIME, in which the kernel stamps packets

	mu      sync.Mutex
	packets map[flow][]packet
	newest  session.Instant
	err     error

	stopping atomic.Bool
	done     chan struct{}
}

const (
	snapLength    = 128
	captureBuffer = 512 << 20
)

// onlyTCP is the capture's filter: the headers of IPv4 and IPv6 packets whose next header is TCP.
var onlyTCP = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: skfProtocol},
	{Code: unix.BPF_JMP | unix.BPF_JEQ, K: unix.ETH_P_IP, Jf: 2},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},
	{Code: unix.BPF_JMP | unix.BPF_JEQ, K: unix.IPPROTO_TCP, Jt: 3, Jf: 4},
	{Code: unix.BPF_JMP | unix.BPF_JEQ, K: unix.ETH_P_IPV6, Jf: 3},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 6},
	{Code: unix.BPF_JMP | unix.BPF_JEQ, K: unix.IPPROTO_TCP, Jf: 1},
	{Code: unix.BPF_RET, K: snapLength},
	{Code: unix.BPF_RET, K: 0},
}

// skfProtocol is where a filter finds the link layer's protocol (SKF_AD_OFF + SKF_AD_PROTOCOL).
const skfProtocol = 0xfffff000

func startCapture(t *testing.T, h *lab.Host) *capture {
	t.Helper()
	c := &capture{packets: map[flow][]packet{}, done: make(chan struct{})}
	if err := h.Do(c.open); err != nil {
		t.Fatalf("capture: %v", err)
	}
	c.offset = clockOffset()
	go func() {
		defer close(c.done)
		c.run()
	}()
	t.Cleanup(func() {
		c.stop()
		if c.err != nil {
			t.Errorf("capture: %v", c.err)
		}
		if now := clockOffset(); (now - c.offset).Abs() > 200*time.Microsecond {
			t.Errorf("the wall clock was stepped by %v while packets were stamped with it", c.offset-now)
		}
	})
	return c
}

func (c *capture) open() (err error) {
	// Protocol 0 catches nothing until bind, so that nothing passes the filter by.
	if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	return errors.Join(
		unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
		unix.SetsockoptSockFprog(c.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(onlyTCP)), Filter: &onlyTCP[0]}),
		unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL)}),
	)
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

// clockOffset is CLOCK_BOOTTIME - CLOCK_REALTIME, from the tightest of some readings.
func clockOffset() time.Duration {
	best, width := time.Duration(0), time.Hour
	for range 200 {
		before := now()
		wall := time.Now().UnixNano()
		after := now()
		if w := after.Sub(before); w < width {
			best, width = time.Duration(before)+w/2-time.Duration(wall), w
		}
	}
	return best
}

// now reads CLOCK_BOOTTIME.
func now() session.Instant {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail
	return session.Instant(ts.Nano())
}

// run records until stop.
func (c *capture) run() {
	buf, control := make([]byte, snapLength), make([]byte, 256)
	for !c.stopping.Load() {
		n, cn, _, from, err := unix.Recvmsg(c.fd, buf, control, 0)
		switch {
		case err == unix.EAGAIN:
			c.mark(now().Add(-50 * time.Millisecond)) // nothing came for that long
		case err == unix.EINTR:
		case err != nil:
			c.fail(err)
			return
		default:
			ll, ok := from.(*unix.SockaddrLinklayer)
			at, err := c.stamp(control[:cn])
			if err != nil || !ok {
				c.fail(fmt.Errorf("packet from %v: %w", from, err))
				return
			}
			c.record(buf[:n], at, ll.Pkttype == unix.PACKET_OUTGOING)
		}
	}
}

func (c *capture) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.Join(c.err, err)
}

func (c *capture) mark(at session.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest = max(c.newest, at)
}

func (c *capture) stamp(control []byte) (session.Instant, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			ts := (*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			return session.Instant(ts.Nano()).Add(c.offset), nil
		}
	}
	return 0, errors.New("no timestamp")
}

// record takes an IP packet that begins with its IP header.
func (c *capture) record(b []byte, at session.Instant, out bool) {
	src, dst, tcp, total, ok := parseIP(b)
	if !ok {
		c.fail(fmt.Errorf("a packet that cannot be read: %x", b))
		return
	}
	header := int(tcp[12]>>4) * 4
	f := flow{
		netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp)),
		netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[2:])),
	}
	if !out {
		f.local, f.remote = f.remote, f.local
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest = max(c.newest, at)
	if payload := total - header; payload > 0 || tcp[13]&tcpReset == 0 {
		c.packets[f] = append(c.packets[f], packet{at, payload, out})
	}
}

const tcpReset = 1 << 2 // in the byte of the flags, RFC 9293 section 3.1

// parseIP returns the TCP header and what follows it, and how long both are in the packet.
func parseIP(b []byte) (src, dst netip.Addr, tcp []byte, total int, ok bool) {
	if len(b) < 20 {
		return
	}
	switch b[0] >> 4 {
	case 4:
		ihl := int(b[0]&15) * 4
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		total = int(binary.BigEndian.Uint16(b[2:])) - ihl
		tcp = b[min(ihl, len(b)):]
	case 6:
		if len(b) < 40 {
			return
		}
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		total = int(binary.BigEndian.Uint16(b[4:])) // 0 in a jumbogram: refused below
		tcp = b[40:]
	}
	return src, dst, tcp, total, len(tcp) >= 20 && total >= 20
}

// take returns the packets of a flow up to now, and forgets them. drained must have returned.
func (c *capture) take(f flow) []packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.packets[f]
	delete(c.packets, f)
	return p
}

// drained waits until every packet of before now is recorded, and fails the test if one was lost.
func (c *capture) drained(t *testing.T) {
	t.Helper()
	at := now()
	eventually(t, "the capture to catch up", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err != nil {
			t.Fatalf("capture: %v", c.err)
		}
		if c.newest < at {
			return fmt.Errorf("it is %v behind", at.Sub(c.newest))
		}
		return nil
	})
	st, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil || st.Drops > 0 {
		t.Fatalf("the capture lost %d of %d packets (%v): it proves nothing", st.Drops, st.Packets, err)
	}
}

func (c *capture) stop() {
	c.stopping.Store(true)
	<-c.done
	_ = unix.Close(c.fd) // read only
}
