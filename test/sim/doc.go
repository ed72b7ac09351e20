// SPDX-License-Identifier: Apache-2.0

// Package sim simulates whole clusters in the time of a testing/synctest bubble: session tables, engines and
// memberlist of up to a thousand nodes, on a network that loses, doubles and cuts, with clocks that drift and
// wall clocks that jump. It checks what a cluster promises of ends, whatever happens. There is nothing in it but tests.
package sim
