// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scale

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/lab"
	"github.com/curfew-proxy/curfew/test/harness"
)

// memory is what a process takes, in bytes.
type memory struct{ rss, pss, anonymous int64 }

// memoryOf reads it from smaps_rollup, where Rss is what status calls VmRSS.
func memoryOf(b *testing.B, pid int) (m memory) {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		into := map[string]*int64{"Rss:": &m.rss, "Pss:": &m.pss, "Anonymous:": &m.anonymous}[f[0]]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		*into = kib << 10
	}
	if m.rss == 0 {
		b.Fatalf("no memory of process %d:\n%s", pid, text)
	}
	return m
}

// ticksPerSecond is the unit of times in /proc (USER_HZ, which is part of Linux's ABI).
const ticksPerSecond = 100

// cpuOf is the CPU time that a process has taken, in seconds.
func cpuOf(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:]) // from the third field on: proc_pid_stat(5)
	user, err1 := strconv.Atoi(string(f[11]))
	system, err2 := strconv.Atoi(string(f[12]))
	if err1 != nil || err2 != nil {
		b.Fatalf("times of process %d: %s", pid, text)
	}
	return float64(user+system) / ticksPerSecond
}

// wire is what the interfaces of a host have carried, but for loopback.
type wire struct{ inBytes, inPackets, outBytes, outPackets int64 }

func (w wire) since(before wire) wire {
	return wire{w.inBytes - before.inBytes, w.inPackets - before.inPackets, w.outBytes - before.outBytes, w.outPackets - before.outPackets}
}

func wireOf(b *testing.B, h *lab.Host) (w wire) {
	b.Helper()
	var text []byte
	err := h.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, rest, ok := strings.Cut(strings.TrimSpace(lines.Text()), ":")
		if !ok || name == "lo" {
			continue // a heading, or what does not reach the wire
		}
		f := strings.Fields(rest)
		for i, into := range map[int]*int64{0: &w.inBytes, 1: &w.inPackets, 8: &w.outBytes, 9: &w.outPackets} {
			n, err := strconv.ParseInt(f[i], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			*into += n
		}
	}
	return w
}

// load is what a node has used so far.
type load struct {
	at   time.Time
	cpu  float64 // seconds, of the proxy process
	wire wire
}

func loadOf(b *testing.B, n *harness.Node) load {
	b.Helper()
	return load{time.Now(), cpuOf(b, n.ProxyPID(b)), wireOf(b, n.Host)}
}

// loads is loadOf all nodes.
func (r *rig) loads() []load {
	r.b.Helper()
	var list []load
	for _, n := range r.Nodes {
		list = append(list, loadOf(r.b, n))
	}
	return list
}
