// SPDX-License-Identifier: Apache-2.0

package api

import "github.com/curfew-proxy/curfew/agent/session"

// Paths at which others tell the agent about sessions, on its TLS port. They prove who they are with a bearer token.
const (
	PathSignals = "/v1/signals/" // POST a security event token (RFC 8935), to the transmitter's name
	PathKill    = "/v1/kill"     // POST KillSignal: KillSignaled
	PathSCIM    = "/scim/v2/"    // SCIM 2.0 (RFC 7644), below the provisioner's name
)

// CodeUnauthenticated is the code of the error that a wrong bearer token gets.
const CodeUnauthenticated = "unauthenticated"

// KillSignal says whose sessions are to end. What is set must all match; a subject, an address, a provider's session or
// a session is needed.
type KillSignal struct {
	Issuer  string     `json:"issuer,omitempty"`
	Subject string     `json:"subject,omitempty"`
	Email   string     `json:"email,omitempty"`
	SID     string     `json:"sid,omitempty"`    // the provider's session; needs the issuer
	Session session.ID `json:"session,omitzero"` // one session, by the name that it has here
	Reason  string     `json:"reason,omitempty"` // shown to users and kept in the audit log
}

// KillSignaled says how many sessions have ended on the node that was asked. That is durable there, and the other nodes of
// the cluster have been told.
type KillSignaled struct {
	Ended int `json:"ended"`
}
