// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // cannot fail with these arguments
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func resident(b *testing.B) int {
	b.Helper()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	if err != nil {
		b.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// BenchmarkExchange is a packet of 100 bytes to a peer and one back, both ends in this process.
func BenchmarkExchange(b *testing.B) {
	ca := newAuthority(b)
	near, far := start(b, ca.member(b, "a", time.Hour)), start(b, ca.member(b, "b", time.Hour))
	connect(b, near, far)
	go func() {
		for p := range far.Packets() {
			_ = far.Send(p.From, p.Kind, p.Data) // loss is timed out below
		}
	}()
	data := make([]byte, 100)
	begin, lost := cpu(), 0
	for b.Loop() {
		_ = near.Send(far.at(), 2, data) // as above
		select {
		case <-near.Packets():
		case <-time.After(time.Second):
			lost++
		}
	}
	b.ReportMetric(float64((cpu()-begin).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(lost), "lost")
}

// BenchmarkPeers is what twenty peers cost one node; the twenty live in this process too, so the figures are
// for both ends of twenty links.
func BenchmarkPeers(b *testing.B) {
	const peers = 20
	for b.Loop() {
		ca := newAuthority(b)
		hub := start(b, ca.member(b, "hub", time.Hour))
		var nodes []*node
		for i := range peers {
			nodes = append(nodes, start(b, ca.member(b, fmt.Sprintf("n%d", i), time.Hour)))
		}
		debug.FreeOSMemory()
		goroutines, memory, spent := runtime.NumGoroutine(), resident(b), cpu()
		for _, n := range nodes {
			connect(b, n, hub)
		}
		b.ReportMetric(float64((cpu()-spent).Microseconds())/peers, "cpu-us/link")
		time.Sleep(2 * time.Second) // the handshakes' goroutines go
		debug.FreeOSMemory()
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/peers/2, "goroutines/end")
		b.ReportMetric(float64(resident(b)-memory)/peers/2/1024, "KiB/end")
		spent = cpu()
		begin := time.Now()
		time.Sleep(6 * time.Second)
		b.ReportMetric(float64((cpu()-spent).Microseconds())/time.Since(begin).Seconds()/peers/2, "idle-cpu-us/s/end")
	}
}
