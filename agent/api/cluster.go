// SPDX-License-Identifier: Apache-2.0

package api

import "time"

// States of a node as others see it.
const (
	NodeAlive   = "alive"
	NodeSuspect = "suspect" // does not answer, but is not given up yet
	NodeDead    = "dead"
	NodeLeft    = "left" // said goodbye
)

// ClusterInfo is one node's view of its cluster.
type ClusterInfo struct {
	ID   string `json:"id"`   // names the cluster
	Node string `json:"node"` // whose view this is
	// Ready is set once this node has compared its sessions with another's, or may do without. It
	// refuses everybody until then.
	Ready bool `json:"ready"`
	// Majority is set while a majority of the nodes that are known answers; Since is when that changed.
	Majority bool      `json:"majority"`
	Since    time.Time `json:"majority_since"`
	// Suspended names the strict services that refuse new connections for want of a majority.
	Suspended []string   `json:"suspended_services,omitempty"`
	Nodes     []NodeInfo `json:"nodes"`
}

// NodeInfo is what a node knows of another, or of itself.
type NodeInfo struct {
	Name        string    `json:"name"`
	Self        bool      `json:"self,omitempty"`
	Address     string    `json:"address"`
	State       string    `json:"state"`
	Since       time.Time `json:"since,omitzero"` // when State changed
	Version     string    `json:"version,omitempty"`
	Sessions    int       `json:"sessions"`
	Connections int       `json:"connections"`
	// WallOffset is how far its wall clock is ahead of this node's. Nothing depends on it.
	WallOffset Seconds `json:"wall_offset_seconds"`
	// ClockError bounds the error with which deadlines are translated from its clock to this node's;
	// zero if they have not been compared.
	ClockError Seconds `json:"clock_error_seconds,omitzero"`
	RoundTrip  Seconds `json:"round_trip_seconds,omitzero"`
	// Compared is when the two nodes last compared all their sessions, and found them equal or made them so.
	Compared time.Time `json:"compared,omitzero"`
	// Unacknowledged is how many messages to it wait for its word.
	Unacknowledged int `json:"unacknowledged,omitempty"`
}

// TokenRequest asks for a token that lets nodes join.
type TokenRequest struct {
	TTL  Seconds `json:"ttl_seconds"` // zero: an hour
	Uses int     `json:"uses"`        // how many nodes may join with it; zero: one
	// Replace lets a node take a name that another key had.
	Replace bool `json:"replace,omitempty"`
}

// TokenResult has the token, which is a secret.
type TokenResult struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// ClusterChange asks for a change of who is in the cluster. Exactly one field is set.
type ClusterChange struct {
	Remove string `json:"remove,omitempty"` // a node, for good
	Rotate bool   `json:"rotate,omitempty"` // make new keys for the cluster's authority, and new certificates
}

// States of a node in the account of a kill.
const (
	KillAcknowledged = "acknowledged" // it has ended the sessions, and said what became of connections
	KillUnconfirmed  = "unconfirmed"  // it has ended the sessions, but not said what became of connections
	KillSilent       = "silent"       // nothing was heard from it
	KillSent         = "sent"         // it was not waited for
)

// KilledNode is what became of a kill at one node.
type KilledNode struct {
	Name         string  `json:"name"`
	State        string  `json:"state"`
	Acknowledged Seconds `json:"acknowledged_seconds,omitzero"` // from the request to its word
	Destroyed    int     `json:"destroyed"`
	Gone         int     `json:"gone"`
	Left         int     `json:"left"`
	Took         Seconds `json:"took_seconds,omitzero"` // there, to the end of the check
	Verified     bool    `json:"verified"`
	Error        string  `json:"error,omitempty"`
}
