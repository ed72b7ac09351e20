// Package proxy takes a connection from accept to account: listeners, TLS handshake, session,
// policy, dial, registration, relay.
//
// It parses strangers' bytes and holds no privilege. No BPF, gossip or OpenID library may be
// imported here; the kernel, the session table and policy are reached through the small
// interfaces declared where they are used.
package proxy
