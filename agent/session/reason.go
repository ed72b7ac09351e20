// SPDX-License-Identifier: Apache-2.0

package session

// Reason says why a session or a connection ended. The text is shown to users, logged, and
// used as a metric label, so it comes from this closed list.
type Reason string

// Why sessions end.
const (
	ReasonAbsolute    Reason = "absolute-timeout"    // the absolute deadline passed
	ReasonIdle        Reason = "idle-timeout"        // no activity for the idle timeout
	ReasonKilled      Reason = "killed"              // an operator's kill
	ReasonLogout      Reason = "logout"              // the user signed out
	ReasonProvider    Reason = "provider-revoked"    // the identity provider ended it
	ReasonPolicy      Reason = "policy-denied"       // policy no longer allows it
	ReasonSuperseded  Reason = "superseded"          // a newer session took its place
	ReasonWatermark   Reason = "watermark"           // created before a watermark
	ReasonConflict    Reason = "conflict"            // nodes say different things of it that never change
	ReasonReplayed    Reason = "credential-replayed" // what it was created with made one of another key, too
	ReasonUnvalidated Reason = "not-revalidated"     // the provider could not be asked for too long
	ReasonLost        Reason = "state-lost"          // its kernel state was removed beneath the agent (kill --local)
	ReasonUnavailable Reason = "enforcement-lost"    // it could not be enforced any longer
)

// Why connections end or are refused, beyond the reasons above.
const (
	ReasonClientClosed    Reason = "client-closed"
	ReasonUpstreamClosed  Reason = "upstream-closed"
	ReasonServiceLimit    Reason = "service-limit" // the service's own timeout
	ReasonDrain           Reason = "drain"         // the agent is shutting down
	ReasonUnknownKey      Reason = "unknown-key"   // no session for this client key
	ReasonNoCertificate   Reason = "no-client-certificate"
	ReasonDenied          Reason = "denied"            // policy says no
	ReasonStepUp          Reason = "step-up-required"  // the service asks for a stronger or fresher sign-in
	ReasonTooMany         Reason = "too-many"          // a limit is reached
	ReasonHandshake       Reason = "bad-handshake"     // TLS or preamble error
	ReasonHandshakeTime   Reason = "handshake-timeout" // too slow
	ReasonNotReady        Reason = "not-ready"         // this node has not compared its sessions with another yet
	ReasonNoMajority      Reason = "no-majority"       // strict service: too few nodes of the cluster answer
	ReasonUnknownService  Reason = "unknown-service"   // no service for this SNI
	ReasonUpstreamRefused Reason = "upstream-refused"  // dial error
	ReasonUpstreamTimeout Reason = "upstream-timeout"  // dial timeout
	ReasonUpstreamTLS     Reason = "upstream-tls"      // TLS, or the preamble before it, towards the upstream
	ReasonRegister        Reason = "register-failed"   // the kernel did not take the sockets
	ReasonNotTCP          Reason = "not-plain-tcp"     // for example MPTCP, which the gate does not see
	ReasonBoundAddress    Reason = "address-not-bound" // plain listener: no session is bound to this source
	ReasonRelayError      Reason = "relay-error"       // an I/O error on either leg
	ReasonDestroyed       Reason = "destroyed"         // ended from outside the relay; the session says why
	ReasonInternal        Reason = "internal-error"    // a bug; see the log
)

// Timeout reports whether a session that ended for this reason ended by itself, at an instant
// that was known before.
func (r Reason) Timeout() bool { return r == ReasonAbsolute || r == ReasonIdle }
