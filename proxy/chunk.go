// SPDX-License-Identifier: Apache-2.0

package proxy

import "sync"

// Sizes of TLS 1.3 records (RFC 8446, section 5).
const (
	recordHeader = 5
	recordTail   = 1 + 16 // the inner content type and the tag of every AEAD in use
	maxPayload   = 1 << 14
	maxInner     = maxPayload + 256 // with padding, content type and tag
	stride       = recordHeader + maxPayload + recordTail
	bulkRecords  = 8 // 128 KiB of payload
)

// span is a piece of payload within a chunk.
type span struct{ off, n int }

// chunk is a buffer with payload on its way from one leg to the other. Each span has room for a
// record header before it and a record tail behind it that belong to no other span: a record is
// opened and sealed in place, and payload is never copied between the legs.
// A chunk belongs to one goroutine at a time.
type chunk struct {
	mem   []byte
	spans []span
	bufs  [][]byte // scratch for the writer
}

// Two sizes, both larger than the largest record: small for requests, bulk while data streams.
// Nobody holds a chunk while waiting for input.
var smallChunks, bulkChunks sync.Pool

func getChunk(bulk bool) *chunk {
	pool, size := &smallChunks, recordHeader+maxInner+recordTail
	if bulk {
		pool, size = &bulkChunks, bulkRecords*stride
	}
	if c, ok := pool.Get().(*chunk); ok {
		return c
	}
	return &chunk{mem: make([]byte, size)}
}

func (c *chunk) bulk() bool { return len(c.mem) == bulkRecords*stride }

func (c *chunk) free() {
	c.spans = c.spans[:0]
	clear(c.bufs)
	c.bufs = c.bufs[:0]
	if c.bulk() {
		bulkChunks.Put(c)
	} else {
		smallChunks.Put(c)
	}
}

// payload is the number of bytes in all spans.
func (c *chunk) payload() int {
	n := 0
	for _, s := range c.spans {
		n += s.n
	}
	return n
}

// scatter returns the memory of each span that a full read of plain payload fills.
func (c *chunk) scatter() [][]byte {
	c.bufs = c.bufs[:0]
	for off := recordHeader; off+maxPayload+recordTail <= len(c.mem); off += stride {
		c.bufs = append(c.bufs, c.mem[off:off+maxPayload])
	}
	return c.bufs
}

// scattered sets the spans after n bytes were read into scatter's memory.
func (c *chunk) scattered(n int) {
	c.spans = c.spans[:0]
	for off := recordHeader; n > 0; off += stride {
		m := min(n, maxPayload)
		c.spans = append(c.spans, span{off, m})
		n -= m
	}
}

// maxGather is how many buffers one write hands to the kernel before moving bytes is cheaper.
const maxGather = 8

// maxIovecs is how many buffers are handed to the kernel at most (it takes 1,024).
const maxIovecs = 64

// gather returns the payload as few buffers, in order. It may move payload within the chunk.
func (c *chunk) gather() [][]byte {
	c.bufs = c.bufs[:0]
	if len(c.spans) <= maxGather {
		for _, s := range c.spans {
			c.bufs = append(c.bufs, c.mem[s.off:s.off+s.n])
		}
		return c.bufs
	}
	end := 0
	for _, s := range c.spans {
		end += copy(c.mem[end:], c.mem[s.off:s.off+s.n])
	}
	c.bufs = append(c.bufs, c.mem[:end])
	return c.bufs
}
