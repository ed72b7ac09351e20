// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// gate reads the kernel's own counters when they are asked for, so that counting costs nothing
// per packet up here.
type gate struct {
	desc *prometheus.Desc
	read func() (map[string]uint64, error)
}

func (g *gate) Describe(ch chan<- *prometheus.Desc) { ch <- g.desc }

func (g *gate) Collect(ch chan<- prometheus.Metric) {
	if g.read == nil {
		return
	}
	counts, err := g.read()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(g.desc, err)
		return
	}
	for verdict, n := range counts {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.CounterValue, float64(n), verdict)
	}
}
