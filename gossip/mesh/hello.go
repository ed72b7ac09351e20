// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// MaxName is the longest name of a node, in bytes.
	MaxName = 64

	helloVersion = 1
	helloHeader  = 1 + 8 + 1 // version, boot, length of the name
)

// errHello is wrapped by everything that is wrong with a hello.
var errHello = errors.New("not a hello")

// hello is the first thing that each end of a link says, on its first stream. What it says of the name
// must be what the certificate says; the boot tells a peer that was restarted from one that dialled twice.
type hello struct {
	boot uint64
	name string
}

// encode returns version (1), boot (8, big endian), length of the name (1), name.
func (h hello) encode() []byte {
	b := make([]byte, 0, helloHeader+len(h.name))
	b = append(b, helloVersion)
	b = binary.BigEndian.AppendUint64(b, h.boot)
	b = append(b, byte(len(h.name)))
	return append(b, h.name...)
}

// readHello reads one hello and not a byte more.
func readHello(r io.Reader) (hello, error) {
	var b [helloHeader + MaxName]byte
	if _, err := io.ReadFull(r, b[:helloHeader]); err != nil {
		return hello{}, fmt.Errorf("read hello: %w", err)
	}
	if b[0] != helloVersion {
		return hello{}, fmt.Errorf("%w: version %d, not %d", errHello, b[0], helloVersion)
	}
	n := int(b[helloHeader-1])
	if n == 0 || n > MaxName {
		return hello{}, fmt.Errorf("%w: a name of %d bytes", errHello, n)
	}
	name := b[helloHeader : helloHeader+n]
	if _, err := io.ReadFull(r, name); err != nil {
		return hello{}, fmt.Errorf("read hello: %w", err)
	}
	return hello{boot: binary.BigEndian.Uint64(b[1:9]), name: string(name)}, nil
}
