// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scale

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// table is what was measured, in the order in which it was.
type table struct {
	began time.Time
	rows  [][2]string
}

// add adds a figure, or several of the same kind; the text after it has its unit.
func (t *table) add(what, format string, args ...any) {
	t.rows = append(t.rows, [2]string{what, fmt.Sprintf(format, args...)})
	t.step("%s: %s", what, t.rows[len(t.rows)-1][1])
}

// step tells who waits for the table how far it is.
func (t *table) step(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.1f s  %s\n", time.Since(t.began).Seconds(), fmt.Sprintf(format, args...))
}

// print prints the table as Markdown.
func (t *table) print(w io.Writer) {
	fmt.Fprintf(w, "\n| %d sessions, %d nodes | |\n|---|---|\n", *sessions, *nodes)
	for _, row := range t.rows {
		fmt.Fprintf(w, "| %s | %s |\n", row[0], row[1])
	}
}

// each writes one figure per node.
func each[T any](format string, list []T) string {
	var s []string
	for _, v := range list {
		s = append(s, fmt.Sprintf(format, v))
	}
	return strings.Join(s, " / ")
}

// quantiles are of durations, of which there must be one.
type quantiles struct{ p50, p99, max time.Duration }

func quantilesOf(list []time.Duration) quantiles {
	list = slices.Sorted(slices.Values(list))
	at := func(q float64) time.Duration { return list[int(q*float64(len(list)-1)+0.5)] }
	return quantiles{at(0.5), at(0.99), list[len(list)-1]}
}

func (q quantiles) String() string {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("%.1f / %.1f / %.1f ms", ms(q.p50), ms(q.p99), ms(q.max))
}
