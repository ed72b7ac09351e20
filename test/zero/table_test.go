// SPDX-License-Identifier: Apache-2.0

//go:build linux

package zero

import (
	"fmt"
	"strings"
	"time"
)

// tableHead heads the rows of summary.
const tableHead = "| agent | end | legs | IP | rounds | MB sent before | bytes late | bytes leaked | last payload, ms | came late | untold | client p50/p99/max, ms | upstream p50/p99/max, ms |\n" +
	"|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"

// summary is one row of the table: of the results that keep accepts.
func summary(name string, all []result, keep func(class) bool) string {
	var sum result
	var client, upstream []time.Duration
	rounds := 0
	sum.newest = nothing
	for _, r := range all {
		if !keep(r.class) {
			continue
		}
		rounds++
		sum.sent += r.sent
		sum.late += r.late
		sum.leaked += r.leaked
		sum.knocks += r.knocks
		sum.newest = max(sum.newest, r.newest)
		sum.untold += r.untold
		client, upstream = append(client, r.client...), append(upstream, r.upstream...)
	}
	if rounds == 0 {
		return ""
	}
	return fmt.Sprintf("| %s | %d | %.1f | %d | %d | %+.3f | %d | %d | %s | %s |\n", name, rounds, float64(sum.sent)/1e6,
		sum.late, sum.leaked, milliseconds(sum.newest), sum.knocks, sum.untold, spread(client), spread(upstream))
}

func spread(list []time.Duration) string {
	if len(list) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f / %.2f / %.2f", milliseconds(quantile(list, 0.5)), milliseconds(quantile(list, 0.99)), milliseconds(quantile(list, 1)))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// table has a row for each case, and before them one for each state with each ending.
func table(all []result) string {
	var b strings.Builder
	b.WriteString(tableHead)
	for _, s := range states {
		for _, e := range endings {
			b.WriteString(summary(fmt.Sprintf("%s | %s | all | all", s, e), all, func(c class) bool { return c.state == s && c.ending == e }))
		}
	}
	b.WriteString("\n" + tableHead)
	for _, s := range states {
		for _, e := range endings {
			for _, tr := range transports {
				for _, family := range families {
					want := class{s, e, tr, family}
					b.WriteString(summary(fmt.Sprintf("%s | %s | %s | %d", s, e, tr, family), all, func(c class) bool { return c == want }))
				}
			}
		}
	}
	return b.String()
}
