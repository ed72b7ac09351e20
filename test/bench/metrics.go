// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"
)

// metric is one figure; less is better.
type metric struct {
	name string
	goal float64 // at most so many times the best peer's, or zero
	most float64 // at most this, or zero
}

// The figures of DESIGN section 9.
var metrics = []metric{
	{name: newName, goal: 0.6},
	{name: idleName, most: 16},
	{name: downName, goal: 0.9},
	{name: upName, goal: 0.9},
	{name: requestName, goal: 0.9},
	{name: latencyName, goal: 1},
}

const (
	idleName    = "KiB/idle connection"
	newName     = "CPU us/new connection"
	downName    = "CPU s/GB down"
	upName      = "CPU s/GB up"
	requestName = "CPU us/request"
	latencyName = "p99 us/request"
)

// takeAll measures a target by every metric. New connections come first: they also fill what the
// process keeps for all, which is not to be counted for those that stay; bulk comes after memory.
func takeAll(l load, t *target, c *client) (map[string]float64, error) {
	v := make(map[string]float64)
	var err error
	v[newName], err = perUnit(t, l.opened, time.Microsecond, func() error { return c.connections(l.opened) })
	if err != nil {
		return nil, fmt.Errorf("new connections: %w", err)
	}
	if v[idleName], err = idleMemory(l, t, c); err != nil {
		return nil, fmt.Errorf("idle connections: %w", err)
	}
	if v[downName], err = perGB(t, l.bulkMiB, func() error { return c.down(l.bulkMiB) }); err != nil {
		return nil, fmt.Errorf("down: %w", err)
	}
	if v[upName], err = perGB(t, l.bulkMiB, func() error { return c.up(l.bulkMiB) }); err != nil {
		return nil, fmt.Errorf("up: %w", err)
	}
	if v[requestName], v[latencyName], err = requestCost(l, t, c); err != nil {
		return nil, fmt.Errorf("requests: %w", err)
	}
	return v, nil
}

// idleMemory is the growth of resident memory by connections that had one request each, after a
// first tenth.
func idleMemory(l load, t *target, c *client) (float64, error) {
	first, err := c.hold(l.idle / 10)
	defer closeAll(first)
	if err != nil {
		return 0, err
	}
	before, err := t.resident()
	if err != nil {
		return 0, err
	}
	conns, err := c.hold(l.idle)
	defer closeAll(conns)
	if err != nil {
		return 0, err
	}
	after, err := t.resident()
	return float64(after-before) / float64(l.idle), err
}

func requestCost(l load, t *target, c *client) (cpu, p99 float64, err error) {
	conns, err := c.hold(requestConns)
	defer closeAll(conns)
	if err != nil {
		return 0, 0, err
	}
	var took []time.Duration
	cpu, err = perUnit(t, l.requests, time.Microsecond, func() (err error) {
		took, err = c.requests(conns, l.requests)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	return cpu, float64(took[len(took)*99/100]) / float64(time.Microsecond), nil
}

// perUnit is the target's processor time for work of n units.
func perUnit(t *target, n int, unit time.Duration, work func() error) (float64, error) {
	before, err := t.cpu()
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := t.cpu()
	return float64(after-before) / float64(unit) / float64(n), err
}

func perGB(t *target, mib int, work func() error) (float64, error) {
	s, err := perUnit(t, 1, time.Second, work)
	return s * 1e9 / float64(mib<<20), err
}

// results are the values of each round, by subject and metric.
type results map[string]map[string][]float64

func (r results) add(subject, metric string, v float64) {
	if r[subject] == nil {
		r[subject] = make(map[string][]float64)
	}
	r[subject][metric] = append(r[subject][metric], v)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Clone(v)
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// printTable compares the first subject with the best of its peers and with the goals. The column "no gate"
// is ours with enforcement in user space: what the kernel's part costs is the ratio of the two.
func printTable(w io.Writer, r results) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	defer tw.Flush()
	fmt.Fprint(tw, "metric")
	for _, s := range subjects {
		if r[s.name] != nil {
			fmt.Fprintf(tw, "\t%s", s.name)
		}
	}
	fmt.Fprintln(tw, "\tratio to best peer\tgoal\t")
	for _, m := range metrics {
		fmt.Fprint(tw, m.name)
		ours, best := math.NaN(), math.Inf(1)
		for i, s := range subjects {
			if r[s.name] == nil {
				continue
			}
			v := median(r[s.name][m.name])
			fmt.Fprintf(tw, "\t%.3g", v)
			switch {
			case i == 0:
				ours = v
			case !s.ours:
				best = min(best, v)
			}
		}
		if math.IsNaN(ours) || math.IsInf(best, 1) {
			fmt.Fprintln(tw, "\t\t\t") // nothing to compare
			continue
		}
		fmt.Fprintf(tw, "\t%.2f\t%s\t\n", ours/best, m.verdict(ours, best))
	}
}

func (m metric) verdict(ours, best float64) string {
	goal, met := fmt.Sprintf("at most %.2g", m.most), ours <= m.most
	if m.goal != 0 {
		goal, met = fmt.Sprintf("at most %.2g of it", m.goal), ours <= m.goal*best
	}
	if met {
		return goal + ": met"
	}
	return goal + ": MISSED"
}
