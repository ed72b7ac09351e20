// SPDX-License-Identifier: Apache-2.0

// Package proxy takes a connection from accept to account: listeners, TLS handshake, session,
// policy, dial, registration, relay.
//
// It parses strangers' bytes and holds no privilege. No BPF, gossip or OpenID library may be
// imported here; the kernel, the session table and policy are reached through the small
// interfaces declared where they are used. Linux only.
//
// Read conn.go first: it is a connection's way. What stands behind its steps:
//
//	listener.go, limits.go, registry.go   who may come, and how many at once
//	handshake.go, postgres.go, keys.go    TLS with any client key, and the ways into it
//	upstream.go, proxyproto.go            the way to the service
//	relay.go                              chooses one of three ways to move payload:
//	  flow.go, loop.go                    TLS 1.3 and plain legs: an event loop, records in place
//	  leg.go, socket.go                   whatever crypto/tls has to do: a goroutine a direction
//	  splice.go                           two plain legs: in the kernel
//	tls13.go, stdtls.go                   the TLS legs: a record layer of our own, or crypto/tls
//	chunk.go                              the buffers that all of them share
package proxy
