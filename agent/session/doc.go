// SPDX-License-Identifier: Apache-2.0

// Package session is the vocabulary that every other package of Curfew speaks
// (identity, session, connection, tuple, reason, selector) and the session table
// with its timers.
//
// It imports the standard library only. It knows no sockets, no BPF, no OpenID
// and no gossip library; what it needs from those it asks for through small
// interfaces (Clock, Store) that package agent fills in.
package session
