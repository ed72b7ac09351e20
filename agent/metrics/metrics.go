// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/curfew-proxy/curfew/agent/session"
)

const namespace = "curfew"

// Metrics has the counters of one agent process.
type Metrics struct {
	registry *prometheus.Registry
	own      []prometheus.Collector // all of ours, without those of Go and the process

	connections      *prometheus.GaugeVec
	connectionsTotal *prometheus.CounterVec
	refused          *prometheus.CounterVec
	bytes            *prometheus.CounterVec
	sessionsEnded    *prometheus.CounterVec
	sockets          *prometheus.CounterVec
	socketsLeft      prometheus.Counter
	killSeconds      prometheus.Histogram
	lateness         prometheus.Histogram
	logins           *prometheus.CounterVec
	opinions         *prometheus.CounterVec
	storeErrors      *prometheus.CounterVec
	cluster          *prometheus.CounterVec
}

// Sources are read when the metrics are scraped. They must be set, be quick, and be safe for
// concurrent use.
type Sources struct {
	// Sessions returns the number of live sessions.
	Sessions func() int
	// Gate returns the packets that the kernel's gate has counted, by verdict, since it was
	// loaded; nil where there is no gate.
	Gate func() (map[string]uint64, error)
	// Enforcer returns what the privileged process has counted: passes over all sockets, sockets that
	// they destroyed, and times that the heartbeats were found missing.
	Enforcer func() (sweeps, swept, missed uint64)
}

// Kills are as quick as microseconds and must be done in milliseconds; lateness likewise.
var fastBuckets = []float64{
	.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5,
}

// New returns the metrics of an agent of the given version.
func New(version string, src Sources) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.gauges(version, src)
	m.connections = gaugeVec(m, "connections", "Live connections.", "service")
	m.connectionsTotal = counterVec(m, "connections_total", "Connections that were relayed and have ended, by what ended them.", "service", "reason")
	m.refused = counterVec(m, "refused_total", "Connections that were turned away. The service is empty where it never became known.", "service", "reason")
	m.bytes = counterVec(m, "bytes_total", "Payload relayed, by the leg it was read from: client or upstream.", "service", "from")
	m.sessionsEnded = counterVec(m, "sessions_ended_total", "Sessions that have ended.", "reason")
	m.sockets = counterVec(m, "sockets_destroyed_total", "Sockets of ended sessions that were destroyed, by the layer that did it.", "layer")
	m.socketsLeft = counter(m, "sockets_left_total", "Sockets that a check still found after a kill. Anything but 0 is an alarm; the sweep retries.")
	m.killSeconds = histogram(m, "kill_seconds", "Time from the request of a kill to the end of its check.")
	m.lateness = histogram(m, "deadline_lateness_seconds", "Time from a session's deadline to the end of its kill.")
	m.logins = counterVec(m, "logins_total", "Steps of signing in and out, by what came of them.", "result")
	m.opinions = counterVec(m, "policy_engine_answers_total", "Questions to the policy engine of a service, by what came of them.", "service", "result")
	m.storeErrors = counterVec(m, "store_errors_total", "Errors of the store that keeps sessions over a restart.", "operation")
	m.cluster = counterVec(m, "cluster_events_total", "What happened between the nodes of the cluster, by the part that saw it: mesh, gossip or engine.", "part", "event")
	m.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *Metrics) gauges(version string, src Sources) {
	build := gaugeVec(m, "build_info", "Always 1; the version is in the label.", "version")
	build.WithLabelValues(version).Set(1)
	add(m, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "sessions", Help: "Live sessions.",
	}, func() float64 { return float64(src.Sessions()) }))
	m.enforcer("sweeps_total", "Passes of the privileged process over all sockets, in search of ended sessions.", func() uint64 { n, _, _ := src.Enforcer(); return n })
	m.enforcer("sockets_swept_total", "Sockets of ended sessions that such a pass destroyed: what the first layer missed, or had no time for.", func() uint64 { _, n, _ := src.Enforcer(); return n })
	m.enforcer("heartbeats_missing_total", "Times that the proxy process fell silent, and the privileged process swept at once.", func() uint64 { _, _, n := src.Enforcer(); return n })
	add(m, &gate{
		desc: prometheus.NewDesc(namespace+"_gate_packets_total",
			"Packets that took another than the common way through the kernel's gate, by what it did with them.", []string{"verdict"}, nil),
		read: src.Gate,
	})
}

// enforcer adds a counter that the privileged process keeps.
func (m *Metrics) enforcer(name, help string, read func() uint64) {
	add(m, prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, func() float64 { return float64(read()) }))
}

func add[C prometheus.Collector](m *Metrics, c C) C {
	m.registry.MustRegister(c)
	m.own = append(m.own, c)
	return c
}

func counter(m *Metrics, name, help string) prometheus.Counter {
	return add(m, prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}))
}

func counterVec(m *Metrics, name, help string, labels ...string) *prometheus.CounterVec {
	return add(m, prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels))
}

func gaugeVec(m *Metrics, name, help string, labels ...string) *prometheus.GaugeVec {
	return add(m, prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels))
}

func histogram(m *Metrics, name, help string) prometheus.Histogram {
	return add(m, prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: fastBuckets}))
}

// Handler serves the metrics over HTTP.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// ConnectionOpened counts a connection that is relayed from now on.
func (m *Metrics) ConnectionOpened(service string) {
	m.connections.WithLabelValues(service).Inc()
}

// ConnectionClosed counts the end of a connection that was opened, and the payload bytes that it
// has relayed.
func (m *Metrics) ConnectionClosed(service string, reason session.Reason, fromClient, fromUpstream uint64) {
	m.connections.WithLabelValues(service).Dec()
	m.connectionsTotal.WithLabelValues(service, string(reason)).Inc()
	m.bytes.WithLabelValues(service, "client").Add(float64(fromClient))
	m.bytes.WithLabelValues(service, "upstream").Add(float64(fromUpstream))
}

// Refused counts a connection that was turned away; service is empty where it is not known.
func (m *Metrics) Refused(service string, reason session.Reason) {
	m.refused.WithLabelValues(service, string(reason)).Inc()
}

// SessionEnded counts the end of a session.
func (m *Metrics) SessionEnded(reason session.Reason) {
	m.sessionsEnded.WithLabelValues(string(reason)).Inc()
}

// Killed records a kill that has been checked: how long it took, and how many sockets were
// still there.
func (m *Metrics) Killed(took time.Duration, left int) {
	m.killSeconds.Observe(took.Seconds())
	m.socketsLeft.Add(float64(left))
}

// DeadlineLate records how long after its deadline a session was done with.
func (m *Metrics) DeadlineLate(late time.Duration) { m.lateness.Observe(late.Seconds()) }

// Destroyed counts sockets that a layer ("destroy", "userspace") has destroyed.
func (m *Metrics) Destroyed(layer string, sockets int) {
	m.sockets.WithLabelValues(layer).Add(float64(sockets))
}

// Login counts a step of signing in or out. Result comes from a closed list.
func (m *Metrics) Login(result string) { m.logins.WithLabelValues(result).Inc() }

// Opinion counts a question to the policy engine of a service. Result comes from a closed list.
func (m *Metrics) Opinion(service, result string) { m.opinions.WithLabelValues(service, result).Inc() }

// StoreError counts a failed operation ("load", "save", "delete") of the session store.
func (m *Metrics) StoreError(operation string) { m.storeErrors.WithLabelValues(operation).Inc() }

// Cluster counts what happened between the nodes of the cluster.
func (m *Metrics) Cluster(part, event string, n int) {
	m.cluster.WithLabelValues(part, event).Add(float64(n))
}
