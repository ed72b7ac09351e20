// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"

	"github.com/curfew-proxy/curfew/agent/session"
)

// clockMessage is one half of an exchange of clock readings (RFC 5905 section 8 calls them T1 to T4; T4 is
// when the reply arrives). With it travels what a node tells of itself.
type clockMessage struct {
	reply      bool
	t1, t2, t3 session.Instant // t1 is read from the asker's clock, the others from the answerer's

	boot     uint64 // of the sender
	epoch    uint64 // names the run of its engine
	wall     int64  // its wall clock, nanoseconds since 1970: shown to people and compared, never used
	sessions int
	ready    bool

	connections int
}

// maxInstant keeps sums of readings and offsets within 64 bits: some 73 years since boot.
const maxInstant = 1 << 61

func encodeClock(c clockMessage) []byte {
	b := appendFlag(appendHeader(nil, kindClock), 1, c.reply)
	b = appendSigned(b, 2, int64(c.t1))
	b = appendSigned(b, 3, int64(c.t2))
	b = appendSigned(b, 4, int64(c.t3))
	b = appendFixed(b, 5, c.boot)
	b = appendFixed(b, 6, c.epoch)
	b = appendSigned(b, 7, c.wall)
	b = appendVarint(b, 8, uint64(c.sessions))
	b = appendFlag(b, 9, c.ready)
	return appendVarint(b, 10, uint64(c.connections))
}

func decodeClockMessage(b []byte) (c clockMessage, err error) {
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.flag(&c.reply)
		case 2:
			return f.signed((*int64)(&c.t1))
		case 3:
			return f.signed((*int64)(&c.t2))
		case 4:
			return f.signed((*int64)(&c.t3))
		case 5:
			return f.fixed(&c.boot)
		case 6:
			return f.fixed(&c.epoch)
		case 7:
			return f.signed(&c.wall)
		case 8:
			return f.count(&c.sessions)
		case 9:
			return f.flag(&c.ready)
		case 10:
			return f.count(&c.connections)
		}
		return nil
	})
	if err == nil && (c.t1 < 0 || c.t2 < 0 || c.t3 < c.t2 || max(c.t1, c.t3) > maxInstant) {
		err = errMalformed
	}
	if err != nil {
		return clockMessage{}, fmt.Errorf("clock: %w", err)
	}
	return c, nil
}
