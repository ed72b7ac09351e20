// SPDX-License-Identifier: Apache-2.0

//go:build unix

package oidc

import "sync"

// tail keeps the end of what is written to it, for messages of tests that fail. It is safe for
// concurrent use.
type tail struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
