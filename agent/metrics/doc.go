// SPDX-License-Identifier: Apache-2.0

// Package metrics counts what the agent does, for Prometheus. It owns a registry of its own and
// the names of all metrics (docs/metrics.md lists them); what happens is told to it through small
// typed methods, each safe for concurrent use. It knows no other part of the agent.
package metrics
