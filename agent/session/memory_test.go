// SPDX-License-Identifier: Apache-2.0

package session

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
	"time"
)

// How much memory a session takes, of a million (the design's goal is 400 bytes).
func BenchmarkSessionMemory(b *testing.B) {
	for b.Loop() {
		measureSessionMemory(b, 1_000_000)
	}
}

func measureSessionMemory(b *testing.B, n int) {
	b.Helper()
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	table, err := NewTable(TableConfig{Clock: &bubbleClock{start: time.Now()}, MaxSessions: n})
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		var k Key
		binary.LittleEndian.PutUint64(k[:], uint64(i+1))
		// Ten sessions a person.
		who := Identity{Issuer: "https://idp.example", Subject: fmt.Sprint("subject-", i/10), Name: "A. Person", Groups: []string{"dba", "ops"}}
		if _, err := table.Create(Session{Key: k, Identity: who, Method: "browser", IdleTimeout: time.Hour}, 12*time.Hour); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(heap()-before)/float64(n), "B/session")
	runtime.KeepAlive(table)
}
