// SPDX-License-Identifier: Apache-2.0

// Package cluster is the protocol in which nodes tell each other of sessions: what was created, what was
// revoked, who was active, what was destroyed for it, and how their clocks compare.
//
// It owns the encoding, the delivery to every live member, the anti-entropy that catches what delivery
// missed, and the timebase that translates between the clocks of nodes. It carries no bytes itself and
// decides nothing about a session: a carrier moves the bytes (Network), package session merges
// (session.Table), and the agent is told what came of it (Config). It imports package session, the
// standard library and protobuf's wire format only.
package cluster
