// SPDX-License-Identifier: Apache-2.0

// Package api holds the JSON that travels between Curfew's processes: what the control socket
// and the sign-in API speak. It owns the wire form only; it imports the standard library and
// agent/session and does nothing.
//
// Times are RFC 3339. Durations are numbers of seconds, in fields whose names end in _seconds.
package api

import (
	"net/netip"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// ServiceInfo describes a configured service.
type ServiceInfo struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"` // "tcp" or "postgres"
	// Listen has the service's own addresses; empty means it is reached by SNI on the gateway.
	Listen      []netip.AddrPort `json:"listen,omitempty"`
	PlainListen []netip.AddrPort `json:"plain_listen,omitempty"`
	Upstream    string           `json:"upstream"` // host:port
	Allow       string           `json:"allow"`    // the CEL expression
	Connections int              `json:"connections"`
}

// States of a session.
const (
	StateLive  = "live"
	StateEnded = "ended"
)

// SessionInfo describes a session as the agent sees it at the moment of the answer.
type SessionInfo struct {
	ID       session.ID       `json:"id"`
	Identity session.Identity `json:"identity"`
	Key      session.Key      `json:"key"`
	Method   string           `json:"method"`
	Created  time.Time        `json:"created"`
	Deadline time.Time        `json:"deadline"` // the absolute end
	// Left is the time until the absolute end, IdleLeft until the end of the idle lease; both are
	// zero once the session has ended. IdleTimeout zero means that idleness does not end it.
	Left        Seconds `json:"left_seconds"`
	IdleTimeout Seconds `json:"idle_timeout_seconds,omitzero"`
	IdleLeft    Seconds `json:"idle_left_seconds,omitzero"`
	// BindAddrs are source addresses that plain listeners admit for this session.
	BindAddrs []netip.Addr `json:"bind_addrs,omitempty"`

	Connections       int          `json:"connections"`
	BytesFromClient   uint64       `json:"bytes_from_client"`
	BytesFromUpstream uint64       `json:"bytes_from_upstream"`
	State             string       `json:"state"`
	Ended             *session.End `json:"ended,omitempty"`
}

// ConnectionInfo describes a live connection.
type ConnectionInfo struct {
	ID                uint64         `json:"id"`
	Session           session.ID     `json:"session"`
	Subject           string         `json:"subject"`
	Service           string         `json:"service"`
	Source            netip.AddrPort `json:"source"`
	Client            session.Socket `json:"client"`
	Upstream          session.Socket `json:"upstream"`
	BytesFromClient   uint64         `json:"bytes_from_client"`
	BytesFromUpstream uint64         `json:"bytes_from_upstream"`
	Opened            time.Time      `json:"opened"`
	LastActive        time.Time      `json:"last_active"`
}

// Types of events.
const (
	EventSessionCreated    = "session-created"    //
	EventSessionEnded      = "session-ended"      // Reason says why
	EventConnectionOpened  = "connection-opened"  //
	EventConnectionClosed  = "connection-closed"  // Reason says why
	EventConnectionRefused = "connection-refused" // Reason says why
	EventKill              = "kill"               // an operator's kill has finished
	EventReload            = "configuration-reloaded"
	EventNode              = "node"       // a node of the cluster has come, gone or changed: Detail says which and how
	EventPartition         = "partition"  // this node has lost the majority of the cluster, or found it again
	EventClockSkew         = "clock-skew" // a node's wall clock is off, or is right again; no deadline depends on it
	EventCluster           = "cluster"    // an operator's change of who is in the cluster
	// EventLost is made for one follower only: it was too slow and missed Lost events.
	EventLost = "lost"
)

// Event is one thing that happened. Seq grows by one with each event of an agent process and
// starts at 1; a gap means that events were lost to this reader.
type Event struct {
	Seq     uint64         `json:"seq"`
	Time    time.Time      `json:"time"`
	Type    string         `json:"type"`
	Session session.ID     `json:"session,omitzero"`
	Subject string         `json:"subject,omitempty"`
	Service string         `json:"service,omitempty"`
	Source  netip.AddrPort `json:"source,omitzero"`
	Reason  session.Reason `json:"reason,omitempty"`
	By      string         `json:"by,omitempty"`
	// Decision is how the log of an outside policy engine calls what it decided.
	Decision string `json:"decision_id,omitempty"`
	Detail   string `json:"detail,omitempty"` // for people
	Lost     uint64 `json:"lost,omitempty"`   // with EventLost only
}

// KillRequest selects sessions and asks for their end. The selectors narrow each other: a
// session is killed when all that are set match. A request without any selector is refused
// unless All is set.
type KillRequest struct {
	Session string `json:"session,omitempty"` // an ID, or a prefix of one that is unique
	Subject string `json:"subject,omitempty"`
	Group   string `json:"group,omitempty"`
	Service string `json:"service,omitempty"` // sessions with a live connection to this service
	Where   string `json:"where,omitempty"`   // a CEL expression, see docs/policy.md
	All     bool   `json:"all,omitempty"`
	Reason  string `json:"reason,omitempty"` // free text, shown to users and kept in the audit log
	DryRun  bool   `json:"dry_run,omitempty"`
	// NoWait leaves the other nodes to end the sessions in their own time; Patience is how long a node
	// may be silent otherwise, zero means 5 s.
	NoWait   bool    `json:"no_wait,omitempty"`
	Patience Seconds `json:"patience_seconds,omitzero"`
}

// Empty reports whether r selects nothing.
func (r KillRequest) Empty() bool {
	return r.Session == "" && r.Subject == "" && r.Group == "" && r.Service == "" && r.Where == "" && !r.All
}

// Outcomes of a killed connection.
const (
	OutcomeDestroyed = "destroyed" // both legs were destroyed by this kill
	OutcomeGone      = "gone"      // it had ended in the meantime, by itself or by the sweep
	OutcomeLeft      = "left"      // a leg was still there when the sockets were listed afterwards
	OutcomeMatched   = "matched"   // a dry run: it would be destroyed
)

// KilledConnection is one connection of a killed session, and what became of it.
type KilledConnection struct {
	ConnectionInfo
	Outcome string `json:"outcome"`
	Error   string `json:"error,omitempty"`
}

// KillResult is the proof of a kill.
type KillResult struct {
	DryRun bool `json:"dry_run,omitempty"`
	// Sessions are the sessions that matched and are now over (or, in a dry run, would be).
	Sessions []session.ID `json:"sessions"`
	// Destroyed, Gone and Left count connections by outcome; see the Outcome constants.
	Destroyed int `json:"destroyed"`
	Gone      int `json:"gone"`
	Left      int `json:"left"`
	// Took is the time from the request to the end of the check.
	Took Seconds `json:"took_seconds"`
	// Shut is CLOCK_BOOTTIME of this host, in nanoseconds, at the moment when the gate was shut on the
	// last of Sessions: none of their payload has passed since. Zero where there is no gate.
	Shut session.Instant `json:"shut_boot_ns,omitzero"`
	// Verified is set when the sockets were listed after the kill and none was left.
	Verified bool `json:"verified"`
	// Noted is set by kill --local when it has left word for the agent, which ends the sessions that
	// have no connection on this host.
	Noted bool `json:"noted,omitempty"`
	// Layers names the layers of enforcement that took part: "destroy", "sweep", "gate",
	// "userspace".
	Layers      []string           `json:"layers"`
	Connections []KilledConnection `json:"connections,omitempty"` // of the node that was asked
	// Nodes is what became of it at each node of the cluster, the one that was asked first; empty
	// where there is no cluster. The other fields are about that one alone.
	Nodes []KilledNode `json:"nodes,omitempty"`
}

// CreateSessionRequest asks for a session without a sign-in: for machines and emergencies. The
// client makes its key itself and sends only its hash.
type CreateSessionRequest struct {
	Subject string      `json:"subject"`
	Name    string      `json:"name,omitempty"`
	Groups  []string    `json:"groups,omitempty"`
	TTL     Seconds     `json:"ttl_seconds"`                   // until the absolute end; must be positive
	Idle    Seconds     `json:"idle_timeout_seconds,omitzero"` // zero: idleness does not end it
	Key     session.Key `json:"key"`
	// BindAddrs are source addresses that plain listeners shall admit for the session, where the
	// configuration allows it.
	BindAddrs []netip.Addr `json:"bind_addrs,omitempty"`
}

// CreateSessionResult is the answer to a CreateSessionRequest.
type CreateSessionResult struct {
	Session SessionInfo `json:"session"`
	// CA holds, in PEM, the certificates by which clients know this agent.
	CA string `json:"ca"`
	// Gateway is the host:port at which clients reach it.
	Gateway string `json:"gateway"`
}

// Status is the agent's account of itself.
type Status struct {
	Node        string    `json:"node"`
	Version     string    `json:"version"`
	Started     time.Time `json:"started"`
	Enforcement string    `json:"enforcement"` // "kernel" or "userspace"
	Layers      []string  `json:"layers"`      // the layers that work on this host
	Ready       bool      `json:"ready"`
	// Problems says, for people, what keeps the agent from being healthy.
	Problems    []string `json:"problems,omitempty"`
	Sessions    int      `json:"sessions"`
	Connections int      `json:"connections"`
}
