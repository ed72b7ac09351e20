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
	name    string
	goal    float64 // at most so many times the best peer's, or zero
	most    float64 // at most this, or zero
	measure func(load, *target, *client) (float64, error)
}

// metrics in the order they are taken: memory while the process is fresh.
var metrics = []metric{
	{name: "KiB/idle connection", most: 16, measure: idleMemory},
	{name: "CPU us/new connection", goal: 0.6, measure: func(l load, t *target, c *client) (float64, error) {
		return perUnit(t, l.opened, time.Microsecond, func() error { return c.connections(l.opened) })
	}},
	{name: "CPU s/GB down", goal: 0.9, measure: func(l load, t *target, c *client) (float64, error) {
		return perGB(t, l.bulkMiB, func() error { return c.down(l.bulkMiB) })
	}},
	{name: "CPU s/GB up", goal: 0.9, measure: func(l load, t *target, c *client) (float64, error) {
		return perGB(t, l.bulkMiB, func() error { return c.up(l.bulkMiB) })
	}},
	{name: "CPU us/request", goal: 0.9, measure: func(l load, t *target, c *client) (v float64, err error) {
		v, _, err = requestCost(l, t, c)
		return v, err
	}},
	{name: "p99 us/request", goal: 1, measure: func(l load, t *target, c *client) (v float64, err error) {
		_, v, err = requestCost(l, t, c)
		return v, err
	}},
}

// idleMemory is the growth of resident memory by connections that had one request each, after a
// first tenth that fills whatever the process keeps for all.
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

// printTable compares the first subject with the best of its peers and with the goals.
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
			if i == 0 {
				ours = v
			} else {
				best = min(best, v)
			}
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
