// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"
)

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 999 * time.Millisecond: "0s", 59 * time.Second: "59s", time.Minute: "1m",
		119 * time.Minute: "1h", 47 * time.Hour: "47h", 48 * time.Hour: "2d",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestPrecise(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 7: "7ns", 999: "999ns", 1234: "1.23µs", 912345: "912µs", 1234567: "1.23ms", 98765432: "98.8ms", 1234567890: "1.23s", -5: "-5ns",
	} {
		if got := precise(d); got != want {
			t.Errorf("precise(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0B", 1023: "1023B", 1024: "1.0KiB", 1536: "1.5KiB", 5 << 20: "5.0MiB", 1<<64 - 1: "16.0EiB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
}

// Names come from providers that let users choose them: they must not reach the terminal raw.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"Zoë 木": "Zoë 木", "a\x1b[31m": "a\uFFFD[31m", "a\nb\tc": "a\uFFFDb\uFFFDc", "\u202egnp": "\uFFFDgnp", "\u009b1m": "\uFFFD1m", "\xff": "\uFFFD",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
	if got := cleanLines("a\x1b\n\tb"); got != "a\uFFFD\n    b" {
		t.Errorf("cleanLines: %q", got)
	}
}
