// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"

	"github.com/curfew-proxy/curfew/agent/api"
)

// View is what the agent shows. Its answers are snapshots that the caller may keep.
// Implementations are safe for concurrent use.
type View interface {
	Services() []api.ServiceInfo
	// Sessions lists live sessions and those that ended not long ago whose ID begins with a prefix in lower
	// case; empty: all. It is fast for a whole ID.
	Sessions(prefix string) []api.SessionInfo
	Connections() []api.ConnectionInfo
}

// Actor does what changes something. By names the caller, for the audit log. An error that is an
// *api.Error reaches the caller as it is; others are sorted by session.ErrNotFound and
// session.ErrTooMany, and the rest are internal.
// Implementations are safe for concurrent use.
type Actor interface {
	// Kill ends sessions and returns when the result is known. The request is not empty, and
	// its Session is empty or a full ID. The context is not cancelled when the caller goes away:
	// a kill that has begun is finished.
	Kill(ctx context.Context, req api.KillRequest, by string) (api.KillResult, error)
	// CreateSession makes a session for a key. The request has a subject, a key and a positive TTL.
	CreateSession(ctx context.Context, req api.CreateSessionRequest, by string) (api.CreateSessionResult, error)
}

// Cluster is the node's view of its cluster, and what an operator can change there. Errors are as
// those of an Actor. Implementations are safe for concurrent use.
type Cluster interface {
	Nodes() api.ClusterInfo
	// Token makes a token to join with. The request has a TTL and a number of uses above zero.
	Token(ctx context.Context, req api.TokenRequest, by string) (api.TokenResult, error)
	// Change is done when this node and every node that it reaches act by it.
	Change(ctx context.Context, req api.ClusterChange, by string) error
}

// Health tells how the agent is.
type Health interface {
	Status() api.Status
}
